"""Local training: gradients and pseudo-gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from client_app.local_update import _batches, gradient_stream, local_update
from common.config import LoraConfig, ModelConfig, TrainConfig
from common.data import TokenizedExamples, tokenize
from common.demo.facts import PRIVATE_PROMPT, facts_of
from common.model.adapted import AdaptedModel, load_adapted_model
from tests.support.tiny import vectors

KNOWN = facts_of("known")
FACTS = KNOWN[:: len(KNOWN) // 8][:8]


@pytest.fixture(scope="module")
def examples(adapted: AdaptedModel) -> TokenizedExamples:
    prompts, answers = [fact.fill(PRIVATE_PROMPT) for fact in FACTS], [f" {fact.answer}" for fact in FACTS]
    return tokenize(adapted.tokenizer, prompts, answers, 64)


@pytest.fixture(scope="module")
def adapter(adapted: AdaptedModel) -> Tensor:
    """An adapter with a B that is not zero, so that A has a gradient too."""
    return adapted.initial + 0.03 * vectors(1, adapted.layout.size, 0)[0]


def settings(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"batch_size": 8, "learning_rate": 0.1, **changes})


def plain_gradient(adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples) -> Tensor:
    """The gradient of the mean loss per completion token, by autograd on the logits alone."""
    adapted.load(adapter)
    adapted.model.eval()
    parameters = {name: p for name, p in adapted.model.named_parameters() if p.requires_grad}
    logits = adapted.model(input_ids=examples.input_ids, attention_mask=examples.attention_mask).logits[:, :-1]
    labels = examples.labels[:, 1:]
    picked = torch.log_softmax(logits.float(), -1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    loss = -(picked * (labels >= 0)).sum() / (labels >= 0).sum()
    found = torch.autograd.grad(loss, list(parameters.values()))
    return adapted.layout.flatten(dict(zip(parameters, found, strict=True)))


def test_one_step_is_the_gradient_of_the_mean_loss(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples
) -> None:
    gradient = local_update(adapted, adapter, examples, settings(), seed=3)
    expected = plain_gradient(adapted, adapter, examples)
    assert expected.norm() > 0.01
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_one_step_does_not_depend_on_the_learning_rate(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples
) -> None:
    one = local_update(adapted, adapter, examples, settings(), seed=3)
    two = local_update(adapted, adapter, examples, settings(learning_rate=9.0), seed=3)
    assert torch.equal(one, two)


def test_several_sgd_steps_are_start_minus_end_over_the_learning_rate(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples
) -> None:
    """With full batches each step's gradient is the plain one at the moving adapter."""
    moving, total = adapter.clone(), torch.zeros_like(adapter)
    for _ in range(3):
        gradient = plain_gradient(adapted, moving, examples)
        moving, total = moving - 0.1 * gradient, total + gradient
    update = local_update(adapted, adapter, examples, settings(local_steps=3), seed=3)
    torch.testing.assert_close(update, (adapter - moving) / 0.1, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(update, total, rtol=1e-3, atol=1e-5)


def test_several_adamw_steps_are_those_of_torch(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples
) -> None:
    moving = torch.nn.Parameter(adapter.clone())
    optimizer = torch.optim.AdamW([moving], lr=0.01)
    for _ in range(2):
        moving.grad = plain_gradient(adapted, moving.detach(), examples)
        optimizer.step()
    train = settings(local_steps=2, optimizer="adamw", learning_rate=0.01)
    update = local_update(adapted, adapter, examples, train, seed=3)
    difference = (update - (adapter - moving.detach()) / 0.01).abs()
    assert difference.quantile(0.99) < 1e-3, "Adam's first steps are signs: values near zero may flip"


def test_accumulated_micro_batches_are_one_large_batch(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples
) -> None:
    whole = local_update(adapted, adapter, examples, settings(batch_size=8), seed=3)
    pieces = local_update(adapted, adapter, examples, settings(batch_size=2, gradient_accumulation=4), seed=3)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-7)


def test_the_seed_decides_the_drawn_batch(adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples) -> None:
    draws = [local_update(adapted, adapter, examples, settings(batch_size=2), seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2], rtol=0.01)


def test_the_result_does_not_depend_on_what_the_model_did_before(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples
) -> None:
    train = settings(local_steps=2, optimizer="adamw")
    first = local_update(adapted, adapter, examples, train, seed=1)
    local_update(adapted, -adapter, examples, train, seed=2)
    adapted.gradients.fill_(7.0)
    adapted.model.eval()
    assert torch.equal(local_update(adapted, adapter, examples, train, seed=1), first)


@pytest.mark.parametrize(("size", "pieces"), [(4, 2), (2, 4), (1, 8)])
def test_however_a_step_of_uneven_rows_is_cut_its_gradient_is_the_same(
    adapted: AdaptedModel, adapter: Tensor, size: int, pieces: int
) -> None:
    """Completions of 1 to 9 tokens: a mean of micro-batch means would weigh a short one too much."""
    prompts = [fact.fill(PRIVATE_PROMPT) for fact in FACTS]
    answers = [f" {fact.answer}" * (1 + 8 * (number % 2)) for number, fact in enumerate(FACTS)]
    uneven = tokenize(adapted.tokenizer, prompts, answers, 64)
    expected = plain_gradient(adapted, adapter, uneven)
    cut = settings(batch_size=size, gradient_accumulation=pieces)
    found = local_update(adapted, adapter, uneven, cut, seed=3)
    assert (found - local_update(adapted, adapter, uneven, settings(), seed=3)).norm() < 1e-6 * expected.norm()
    assert (found - expected).norm() < 1e-5 * expected.norm()
    steps = {"local_steps": 2, "learning_rate": 0.1}
    one, other = (
        local_update(adapted, adapter, uneven, settings(**steps, **shape), seed=3)
        for shape in ({"batch_size": 8}, {"batch_size": size, "gradient_accumulation": pieces})
    )
    assert (one - other).norm() < 1e-5 * one.norm(), "the pseudo-gradient too"
    first = [next(gradient_stream(adapted, adapter, uneven, train, seed=3)) for train in (settings(), cut)]
    assert (first[0] - first[1]).norm() < 1e-6 * first[0].norm()


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    (step,) = _batches(3, settings(batch_size=100), seed=1)
    assert sorted(step[0].tolist()) == [0, 1, 2]


def test_epochs_pass_over_every_example_once_each() -> None:
    steps = list(_batches(7, settings(local_steps=0, local_epochs=3, batch_size=3), seed=1))
    assert [len(rows) for (rows,) in steps] == [3, 3, 1] * 3
    for epoch in range(3):
        rows = torch.cat([rows for (rows,) in steps[3 * epoch : 3 * epoch + 3]])
        assert sorted(rows.tolist()) == list(range(7))


def test_steps_draw_without_replacement_within_a_pass() -> None:
    steps = list(_batches(6, settings(local_steps=3, batch_size=2), seed=1))
    assert sorted(torch.cat([rows for (rows,) in steps]).tolist()) == list(range(6))
    assert len(list(_batches(6, settings(local_steps=11, batch_size=2), seed=1))) == 11


def test_epochs_train_in_that_many_steps(adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples) -> None:
    """Two passes with full batches are two steps."""
    epochs = local_update(adapted, adapter, examples, settings(local_steps=0, local_epochs=2), seed=1)
    steps = local_update(adapted, adapter, examples, settings(local_steps=2), seed=1)
    torch.testing.assert_close(epochs, steps, rtol=1e-3, atol=1e-5)


def test_the_stream_begins_with_the_one_step_gradient_and_follows_sgd(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples
) -> None:
    train = settings(local_steps=3, batch_size=4)
    stream = list(gradient_stream(adapted, adapter, examples, train, seed=5))
    one = local_update(adapted, adapter, examples, train.model_copy(update={"local_steps": 1}), seed=5)
    assert len(stream) == 3
    torch.testing.assert_close(stream[0], one, rtol=1e-5, atol=1e-8)
    several = local_update(adapted, adapter, examples, train, seed=5)
    torch.testing.assert_close(torch.stack(stream).sum(dim=0), several, rtol=1e-3, atol=1e-5)


def test_dropout_masks_are_those_of_the_seed(examples: TokenizedExamples) -> None:
    """The base model's dropout, for the adapter has none of its own."""
    lora = LoraConfig(rank=2, target_modules="q_proj")
    dropping = load_adapted_model.__wrapped__(ModelConfig(), lora, 1)
    for module in dropping.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    adapter = dropping.initial + 0.03 * vectors(1, dropping.layout.size, 0)[0]
    draws = [local_update(dropping, adapter, examples, settings(), seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2], rtol=0.01), "the batch is the same: only the masks differ"
