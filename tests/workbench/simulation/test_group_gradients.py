"""Gradients of many groups of sequences at once, against one backward pass a group."""

import pytest
import torch
from torch import Tensor

from client_app.local_update import local_update
from common.config import TrainConfig
from common.data import IGNORED, TokenizedExamples
from common.model.adapted import AdaptedModel
from tests.support.tiny import vectors
from workbench.simulation.cohort_grid import _stacked
from workbench.simulation.group_gradients import group_gradients

TOKENS = torch.randint(4, 200, (5, 3, 9), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
SPANS = [[[(7, 8)], [(4, 6)], [(1, 3), (5, 6), (8, 9)]]] * 4 + [[[(2, 3), (5, 9)], [(1, 2)], []]]
LABELS = torch.full_like(TOKENS, IGNORED)
for group, sequences in enumerate(SPANS):
    for row, spans in enumerate(sequences):
        for begin, end in spans:
            LABELS[group, row, begin:end] = TOKENS[group, row, begin:end]


@pytest.fixture
def point(adapted: AdaptedModel) -> Tensor:
    return adapted.initial + 0.05 * vectors(1, adapted.layout.size, 3)[0]


@pytest.fixture
def jacobian(adapted: AdaptedModel, point: Tensor) -> Tensor:
    """Every loss by the model's own loss function, sequence by sequence: the mean over the label tokens."""
    rows = []
    for tokens, labels in zip(TOKENS.long(), LABELS.long(), strict=True):
        adapted.load(point)
        adapted.training_mode(False)
        count = int((labels != IGNORED).sum())
        for sequence, target in zip(tokens, labels, strict=True):
            learned = int((target != IGNORED).sum())
            if learned:
                output = adapted.model(input_ids=sequence[None], labels=target[None], use_cache=False)
                (output.loss * learned / count).backward()
        rows.append(adapted.gradient())
    return torch.stack(rows)


def test_all_groups_at_once_equal_one_backward_pass_a_group(
    adapted: AdaptedModel, point: Tensor, jacobian: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at_once in (600, 6):
        monkeypatch.setattr("workbench.simulation.group_gradients._AT_ONCE", at_once)
        found = group_gradients(adapted, point, TOKENS, LABELS)
        assert ((found - jacobian).norm(dim=1) < 1e-5 * jacobian.norm(dim=1)).all()
        assert not adapted.gradients.any(), "nothing is left behind for the next backward pass"


def test_a_layer_that_no_token_reaches_has_gradient_zero_and_one_that_is_not_linear_is_refused(
    adapted: AdaptedModel, point: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = adapted.layout.tensors[0]
    layer = adapted.model.get_submodule(first.name.removesuffix(".weight"))
    monkeypatch.setattr(layer, "register_forward_hook", lambda _: _Nothing())
    assert not group_gradients(adapted, point, TOKENS, LABELS)[:, first.offset : first.end].any()
    monkeypatch.setattr("workbench.simulation.group_gradients.nn.Linear", torch.nn.Conv1d)
    with pytest.raises(TypeError, match=first.name):
        group_gradients(adapted, point, TOKENS, LABELS)


def test_a_cohort_learns_every_answer_of_a_conversation_as_a_client_does(adapted: AdaptedModel, point: Tensor) -> None:
    """A run in one process learned the user's words behind the first answer, and no later answer."""
    batches = [
        TokenizedExamples(t.long(), torch.ones_like(t).long(), y.long()) for t, y in zip(TOKENS, LABELS, strict=True)
    ]
    found = group_gradients(adapted, point, *_stacked(batches))
    for row, batch in zip(found, batches, strict=True):
        expected = local_update(adapted, point, batch, TrainConfig(batch_size=3), seed=1)
        assert (row - expected).norm() < 1e-5 * expected.norm()


class _Nothing:
    def remove(self) -> None:
        """No hook was there."""
