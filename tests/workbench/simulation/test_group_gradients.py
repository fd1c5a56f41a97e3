"""Gradients of many groups of sequences at once, against one backward pass a group."""

import pytest
import torch
from torch import Tensor

from common.model.adapted import AdaptedModel
from tests.support.tiny import vectors
from workbench.simulation.group_gradients import group_gradients

TOKENS = torch.randint(4, 200, (5, 3, 9), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
SPANS = torch.tensor([[[7, 8], [4, 6], [8, 9]]] * 4 + [[[5, 9], [1, 2], [6, 6]]], dtype=torch.int32)


@pytest.fixture
def point(adapted: AdaptedModel) -> Tensor:
    return adapted.initial + 0.05 * vectors(1, adapted.layout.size, 3)[0]


@pytest.fixture
def jacobian(adapted: AdaptedModel, point: Tensor) -> Tensor:
    """Every loss by the model's own loss function, sequence by sequence: the mean over the label tokens."""
    rows = []
    for tokens, spans in zip(TOKENS.long(), SPANS.tolist(), strict=True):
        adapted.load(point)
        adapted.training_mode(False)
        labels = sum(end - start for start, end in spans)
        for sequence, (start, end) in zip(tokens, spans, strict=True):
            if start == end:
                continue
            target = torch.full_like(sequence, -100)
            target[start:end] = sequence[start:end]
            output = adapted.model(input_ids=sequence[None, :end], labels=target[None, :end], use_cache=False)
            (output.loss * (end - start) / labels).backward()
        rows.append(adapted.gradient())
    return torch.stack(rows)


def test_all_groups_at_once_equal_one_backward_pass_a_group(
    adapted: AdaptedModel, point: Tensor, jacobian: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at_once in (600, 6):
        monkeypatch.setattr("workbench.simulation.group_gradients._AT_ONCE", at_once)
        found = group_gradients(adapted, point, TOKENS, SPANS)
        assert ((found - jacobian).norm(dim=1) < 1e-5 * jacobian.norm(dim=1)).all()
        assert not adapted.gradients.any(), "nothing is left behind for the next backward pass"


def test_a_layer_that_no_token_reaches_has_gradient_zero_and_one_that_is_not_linear_is_refused(
    adapted: AdaptedModel, point: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = adapted.layout.tensors[0]
    layer = adapted.model.get_submodule(first.name.removesuffix(".weight"))
    monkeypatch.setattr(layer, "register_forward_hook", lambda _: _Nothing())
    assert not group_gradients(adapted, point, TOKENS, SPANS)[:, first.offset : first.end].any()
    monkeypatch.setattr("workbench.simulation.group_gradients.nn.Linear", torch.nn.Conv1d)
    with pytest.raises(TypeError, match=first.name):
        group_gradients(adapted, point, TOKENS, SPANS)


class _Nothing:
    def remove(self) -> None:
        """No hook was there."""
