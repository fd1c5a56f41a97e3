"""The ClientApp: one handler for each kind of message. What they share, the order first of all, is in ``answer``."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from client_app.answer import Asked, Coin, Compute, Kind, NoiseSource, answer, own_coin, own_noise
from client_app.encoders import encoder_for
from client_app.guard import Handler, guarded
from client_app.held_out import held_out_scores
from client_app.local_update import gradient_stream, local_update
from client_app.release import release_gradient
from client_app.secure import keys, peers, repair
from client_app.statistics import gradient_statistics
from common import score_code
from common.codecs.statistics import NonFiniteStatistics
from common.config import TrainConfig
from common.data import TokenizedExamples
from common.privacy.mechanism import release
from common.privacy.noise import RandomSource
from common.scale_code import ScaleCode
from common.wire.assignment import Task
from common.wire.records import WireError

GradientSource = Callable[[Asked, TokenizedExamples], Tensor]
"""What a client computes in a round: the instruction and its examples to a flat gradient, shape ``[n]``."""


def make_app(gradient: GradientSource, noise: NoiseSource = own_noise, coin: Coin = own_coin) -> ClientApp:
    """A ClientApp with all handlers, whose rounds take their gradients from ``gradient``; ``coin``: see ``Kind``."""
    made = ClientApp()
    made.query("keys")(keys)
    made.query("peers")(peers)
    made.query("repair")(repair)
    in_round = Kind(train=lambda _, run: run, plan=lambda asked: plan_round(asked, gradient), part="rounds")
    made.query("statistics")(_handler(replace(STATISTICS, noise=noise)))
    made.query("gradients")(_handler(replace(GRADIENTS, noise=noise)))
    made.train()(_handler(replace(in_round, noise=noise, coin=coin)))
    made.evaluate()(_handler(replace(SCORES, noise=lambda site, number: noise(site, -2 - number))))
    return made


def _handler(kind: Kind) -> Handler:
    @guarded
    def handler(message: Message, context: Context) -> Message:
        return answer(message, context, kind)

    return handler


def plan_statistics(asked: Asked) -> Compute:
    """Stage 1: stds of the local gradients, as a scale code; in the clear means and stds (Algorithm 1, client side)."""
    settings, layout, task = asked.site.config.stage_one, asked.cut.full, asked.task
    scales = ScaleCode.of(layout, settings)
    _check_length("statistics", 2 * len(layout.tensors) if task.raw else scales.size, task)

    def compute(examples: TokenizedExamples, source: RandomSource) -> np.ndarray:
        stream = _gradients(asked, examples)
        if task.raw:
            measured = gradient_statistics(stream, layout, settings)
            return torch.cat([measured.mean, measured.std]).numpy().astype(np.float32)
        try:
            code = scales.encode(gradient_statistics(stream, layout, settings).std)
        except NonFiniteStatistics:
            code = torch.full((scales.size,), math.nan)  # an error would tell of private data; see ``release``
        return release(code, task.terms, source)

    return compute


def plan_gradients(asked: Asked) -> Compute:
    """Stage 1 of FedCG (TGAP): all gradients of a few local steps, on examples of their own, as one vector.

    In the clear only if the instruction says so and the site's policy allows it; else clipped all together and noised.
    """
    size, task = asked.train.local_steps * asked.cut.full.size, asked.task
    _check_length("gradients", size, task)

    def compute(examples: TokenizedExamples, source: RandomSource) -> np.ndarray:
        if not len(examples):  # zeros: an error would tell how few examples there are
            found = torch.zeros(size)
        else:
            found = torch.cat([gradient.cpu() for gradient in _gradients(asked, examples)])
        return found.numpy() if task.raw else release(found, task.terms, source)

    return compute


def plan_round(asked: Asked, gradient: GradientSource) -> Compute:
    """Stage 2: the gradient, encoded (Algorithm 2, client side)."""
    encoder = encoder_for(asked.spec, asked.cut.full, asked.task.terms.size, asked.task.epoch)

    def compute(examples: TokenizedExamples, source: RandomSource) -> np.ndarray:
        return release_gradient(gradient(asked, examples), encoder, asked.task.terms, source)

    return compute


def plan_scores(asked: Asked) -> Compute:
    """Private evaluation: loss and accuracy on the rows that are held out, clipped; no row gives zeros."""
    _check_length("scores", score_code.SIZE, asked.task)

    def compute(examples: TokenizedExamples, source: RandomSource) -> np.ndarray:
        even = asked.site.data is not None
        found = held_out_scores(asked.adapted, asked.adapter, examples, asked.train, even=even)
        code = score_code.encode_scores(*found)
        if not torch.isfinite(code).all():  # zeros: an error would tell that there is no row, or of the loss
            code = torch.zeros(score_code.SIZE)
        return release(code, asked.task.terms, source)

    return compute


def gradient_of(asked: Asked, examples: TokenizedExamples) -> Tensor:
    """The client's gradient or pseudo-gradient of a round (shape ``[n]``) (Algorithm 2, step 3)."""
    return asked.cut.pad(local_update(asked.adapted, asked.adapter, examples, asked.train, asked.seed))


def _gradients(asked: Asked, examples: TokenizedExamples) -> Iterator[Tensor]:
    """The gradients of successive local steps, each of shape ``[n]``."""
    for gradient in gradient_stream(asked.adapted, asked.adapter, examples, asked.train, asked.seed):
        yield asked.cut.pad(gradient)


def _stage_one_training(task: Task, run: TrainConfig) -> TrainConfig:
    """The task's own steps; everything else as in the rounds."""
    if task.steps < 1 or not task.learning_rate > 0:
        raise WireError(f"stage 1: steps = {task.steps}, learning rate = {task.learning_rate}; both must be above 0")
    changes = {"local_steps": task.steps, "local_epochs": 0, "learning_rate": task.learning_rate}
    return run.model_copy(update=changes)


def _scores_task(task: Task) -> Task:
    """The assignment's own terms for scores, and none of its gradients' terms."""
    if task.evaluation is None:
        raise WireError("scores on held-out rows are asked for by an assignment that has no terms for them")
    return replace(task, terms=task.evaluation, raw=False)


def _check_length(what: str, size: int, task: Task) -> None:
    if task.terms.size != size:
        raise WireError(f"the {what} have {size} values, the release terms say {task.terms.size}")


STATISTICS = Kind(train=_stage_one_training, plan=plan_statistics, part="stage one")
GRADIENTS = Kind(train=_stage_one_training, plan=plan_gradients, part="stage one", vectors=lambda task: task.steps)
SCORES = Kind(train=lambda _, run: run, plan=plan_scores, part="held out", task=_scores_task)

app = make_app(gradient_of)
