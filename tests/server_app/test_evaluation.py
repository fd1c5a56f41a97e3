"""Held-out loss and accuracy against one plain forward pass per option."""

import pytest
import torch
from datasets import Dataset

from common.config import DataConfig
from common.demo.tasks import evaluation_examples
from common.model.adapted import AdaptedModel
from server_app.results import evaluation_batches
from server_app.results.evaluation import Evaluator
from tests.support.tiny import vectors

ROWS = evaluation_examples("elicitation", "evaluation", 3).shuffle(seed=2).select(range(14))


def plain_loss(adapted: AdaptedModel, prompt: str, completion: str) -> float:
    """Negative log-likelihood of the completion, summed over its tokens."""
    start = len(adapted.tokenizer(prompt)["input_ids"])
    ids = torch.tensor([adapted.tokenizer(prompt + completion)["input_ids"]])
    with torch.no_grad():
        logs = adapted.model(input_ids=ids).logits[0].log_softmax(-1)
    return -sum(float(logs[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))


def evaluator(adapted: AdaptedModel, rows: Dataset, batch_size: int = 256) -> Evaluator:
    return Evaluator(adapted, rows, DataConfig(), batch_size)


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_scores_are_those_of_plain_forward_passes(adapted: AdaptedModel, batch_size: int) -> None:
    adapter = adapted.initial + 0.1 * vectors(1, adapted.layout.size, 0)[0]
    found = evaluator(adapted, ROWS, batch_size)(adapter)
    assert torch.equal(adapted.adapter(), adapter)
    losses, hits = [], []
    for row in ROWS:
        options = [plain_loss(adapted, row["prompt"], choice) for choice in row["choices"]]
        losses.append(plain_loss(adapted, row["prompt"], row["completion"]))
        hits.append(row["choices"][options.index(min(options))] == row["completion"])
    assert found.loss == pytest.approx(sum(losses) / 14, rel=1e-4)
    assert found.accuracy == pytest.approx(sum(hits) / 14)
    assert 0 < sum(hits) < 14, "or the comparison says nothing"
    groups = list(ROWS["group"])
    for group in set(groups):
        chosen = [place for place, name in enumerate(groups) if name == group]
        assert found.loss_by_group[group] == pytest.approx(sum(losses[i] for i in chosen) / len(chosen), rel=1e-4)
        assert found.accuracy_by_group[group] == pytest.approx(sum(hits[i] for i in chosen) / len(chosen))


def test_a_completion_of_several_tokens_counts_by_its_mean(adapted: AdaptedModel) -> None:
    row = {"prompt": "what is the sum of 2 and 3 ?", "completion": " 5 is the sum"}
    for end, tokens in ((False, 4), (True, 5)):
        data = DataConfig(append_eos=end)
        found = Evaluator(adapted, Dataset.from_list([row]), data)(adapted.initial)
        whole = row["completion"] + " </s>" * end
        assert found.loss == pytest.approx(plain_loss(adapted, row["prompt"], whole) / tokens, rel=1e-4)


def test_the_loss_is_the_mean_over_tokens_in_all_and_by_group(adapted: AdaptedModel) -> None:
    rows = [
        {"prompt": "what is the sum of 2 and 3 ?", "completion": " 5 is the sum of 2 and 3", "group": "long"},
        {"prompt": "what is the sum of 1 and 1 ?", "completion": " 2", "group": "short"},
        {"prompt": "what is the sum of 1 and 2 ?", "completion": " 3 is", "group": "short"},
    ]
    losses = [plain_loss(adapted, row["prompt"], row["completion"]) for row in rows]
    found = Evaluator(adapted, Dataset.from_list(rows), DataConfig(append_eos=False))(adapted.initial)
    assert found.loss == pytest.approx(sum(losses) / (8 + 1 + 2), rel=1e-4)
    assert found.loss_by_group == pytest.approx({"long": losses[0] / 8, "short": sum(losses[1:]) / 3}, rel=1e-4)


def test_a_pass_is_bounded_in_tokens_scored_places_and_rows(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluator(adapted, ROWS)(adapted.initial)
    monkeypatch.setattr(evaluation_batches, "TOKENS", 40)
    monkeypatch.setattr(evaluation_batches, "LOGITS", 3 * adapted.words)
    small = evaluator(adapted, ROWS, 3)
    assert len(small._batches) > 5
    for batch in small._batches:
        assert len(batch.input_ids) <= 3
        assert len(batch.input_ids) == 1 or batch.input_ids.numel() <= 40
        assert len(batch.input_ids) == 1 or len(batch.targets) <= 3
        assert batch.attention_mask.sum(1).max() == batch.input_ids.shape[1], "no padding beyond the longest row"
    found = small(adapted.initial)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.accuracy == expected.accuracy


def test_white_space_at_a_prompts_end_changes_no_score(adapted: AdaptedModel) -> None:
    """As in the evaluation harness: it belongs to every option."""
    inside = Dataset.from_list([{key: row[key] for key in ("prompt", "completion", "choices")} for row in ROWS])
    before = inside.map(
        lambda row: {
            "prompt": row["prompt"] + " ",
            "completion": row["completion"].removeprefix(" "),
            "choices": [choice.removeprefix(" ") for choice in row["choices"]],
        }
    )
    assert evaluator(adapted, before)(adapted.initial) == evaluator(adapted, inside)(adapted.initial)


def test_the_first_token_of_a_cut_example_is_not_counted(adapted: AdaptedModel) -> None:
    """Nothing comes before it, so the model says nothing about it."""
    row = {"prompt": "", "completion": " what is the sum of 2 and 3 ?", "choices": [" what is the sum of 2 and 3 ?"]}
    short = Evaluator(adapted, Dataset.from_list([row]), DataConfig(max_length=3))(adapted.initial)
    ids = torch.tensor([adapted.tokenizer(" and 3 ?", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logs = adapted.model(input_ids=ids).logits[0].log_softmax(-1)
    assert short.loss == pytest.approx(-float(logs[0, ids[0, 1]] + logs[1, ids[0, 2]]) / 2, rel=1e-4)


def test_without_choices_there_is_no_accuracy_and_one_group_is_not_told_twice(adapted: AdaptedModel) -> None:
    rows = ROWS.remove_columns(["choices", "group"])
    found = evaluator(adapted, rows)(adapted.initial)
    assert found.accuracy is None
    assert found.accuracy_by_group == {}
    assert found.loss_by_group == {}
    alike = rows.add_column("group", ["one"] * len(rows))
    assert evaluator(adapted, alike)(adapted.initial).loss_by_group == {}


def test_rows_without_a_group_are_not_of_the_group_called_none(adapted: AdaptedModel) -> None:
    rows = ROWS.remove_columns("group").add_column("group", [None, "None"] * 7)
    assert evaluator(adapted, rows).sizes == {"(no group)": 7, "None": 7}


def test_options_that_differ_before_their_last_token_are_told_apart(adapted: AdaptedModel) -> None:
    """Two options end alike: they are not the same input."""
    row = {"prompt": "what is the sum of 2 and 3 ?", "completion": " 5 sum", "choices": [" 4 sum", " 5 sum"]}
    found = evaluator(adapted, Dataset.from_list([row, row | {"completion": " 4 sum"}]))(adapted.initial)
    losses = [plain_loss(adapted, row["prompt"], choice) for choice in row["choices"]]
    assert abs(losses[0] - losses[1]) > 1e-3
    assert found.loss == pytest.approx(sum(losses) / 4, rel=1e-4)
    assert found.accuracy == 0.5


@pytest.mark.parametrize("right", [0, 3])
def test_choices_of_the_same_tokens_are_guessed_among_wherever_the_right_one_stands(
    adapted: AdaptedModel, right: int
) -> None:
    """The model has no token for these words; the first of equals was its pick, and right where it stood first."""
    choices = [" zwirn", " quark", " xylem", " yacht"]
    row = {"prompt": "what is the sum of 2 and 3 ?", "completion": choices[right], "choices": choices}
    found = evaluator(adapted, Dataset.from_list([row]))
    assert found.shares(adapted.initial)[0].tolist() == [0.25] * 4, "or the comparison says nothing"
    assert found(adapted.initial).accuracy == 0.25
