"""The ClientApp: handlers unpack a message, call the algorithm and pack the reply."""

import math

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from client_app.guard import guarded, or_nothing
from client_app.local_update import gradient_stream, local_update
from client_app.release import release_gradient, release_nothing
from client_app.site import Site, encoder_for
from client_app.statistics import gradient_statistics
from common.codecs.statistics import NonFiniteStatistics
from common.privacy.mechanism import release
from common.scale_code import ScaleCode
from common.wire import Task, WireError, pack_release, received_adapter, unpack_instruction

app = ClientApp()


@app.query("statistics")
@guarded
def statistics(message: Message, context: Context) -> Message:
    """Stage 1: release this client's gradient statistics (Algorithm 1, client side)."""
    sent, _, task = unpack_instruction(message.content)
    site = Site.of(context)
    site.check(task)
    adapter = received_adapter(sent, site.adapted.layout)
    settings, layout = site.config.statistics, site.adapted.layout
    if not task.raw and task.terms.size != ScaleCode.of(layout, settings).size:
        raise WireError(f"release terms say {task.terms.size} values; these statistics have another number")
    site.charge(task, context)
    if not task.sampled:
        return _cover(message, task, site)
    train = site.config.train.model_copy(
        update={"local_steps": settings.steps, "local_epochs": 0, "learning_rate": settings.learning_rate}
    )
    gradients = gradient_stream(site.adapted, adapter, site.examples, train, site.seed(0))
    if task.raw:
        measured = gradient_statistics(gradients, layout, settings)
        values = torch.cat([measured.mean, measured.std]).numpy().astype(np.float32)
    else:
        scales = ScaleCode.of(layout, settings)
        try:
            code = or_nothing(
                lambda: scales.encode(gradient_statistics(gradients, layout, settings).std), scales.size, context
            )
        except NonFiniteStatistics:
            code = torch.full((scales.size,), math.nan)  # an error would tell of private data; see ``release``
        values = release(code, task.terms, site.noise_source(0))
    return Message(pack_release(values, task.round), reply_to=message)


@app.query("gradients")
@guarded
def gradients(message: Message, context: Context) -> Message:
    """Stage 1 of FedCG (TGAP): release this client's LoRA gradients of a few local steps, on examples of their own.

    In the clear only if the instruction says so and the site's policy allows it; else clipped all together and noised.
    """
    sent, _, task = unpack_instruction(message.content)
    site = Site.of(context)
    settings, layout = site.config.fedcg, site.adapted.layout
    site.check(task, vectors=settings.gradients_per_client)
    adapter = received_adapter(sent, layout)
    size = settings.gradients_per_client * layout.size
    if size != task.terms.size:
        raise WireError(f"the gradients have {size} values, the release terms say {task.terms.size}")
    site.charge(task, context)
    if not task.sampled:
        return _cover(message, task, site)
    train = site.config.train.model_copy(
        update={
            "local_steps": settings.gradients_per_client,
            "local_epochs": 0,
            "learning_rate": settings.learning_rate,
        }
    )

    def collect() -> Tensor:
        examples, _ = site.split()
        if not len(examples):  # zeros: an error would tell how few examples there are
            return torch.zeros(size)
        stream = gradient_stream(site.adapted, adapter, examples, train, site.seed(0))
        return torch.cat([gradient.cpu() for gradient in stream])

    if task.raw:
        values = collect().numpy()
    else:
        values = release(or_nothing(collect, size, context), task.terms, site.noise_source(0))
    return Message(pack_release(values, task.round), reply_to=message)


@app.train()
@guarded
def train(message: Message, context: Context) -> Message:
    """Stage 2: release this client's encoded, clipped, noised gradient (Algorithm 2, client side)."""
    sent, spec, task = unpack_instruction(message.content)
    if task.raw:
        raise WireError("a gradient is never asked for in the clear: only stage 1 may be raw")
    site = Site.of(context)
    site.check(task)
    adapter = received_adapter(sent, site.adapted.layout)
    encoder = encoder_for(spec, site, task.terms.size)
    site.charge(task, context)  # the last that may refuse: from here on the answer is a release
    if not task.sampled:
        return _cover(message, task, site)
    gradient = or_nothing(lambda: gradient_of(site, adapter, task.round), site.adapted.layout.size, context)
    values = release_gradient(gradient, encoder, task.terms, site.noise_source(task.round))
    return Message(pack_release(values, task.round), reply_to=message)


def _cover(message: Message, task: Task, site: Site) -> Message:
    """The answer of a client that is not in the cohort, of the length that a member's has."""
    return Message(pack_release(release_nothing(task, site.noise_source(task.round)), task.round), reply_to=message)


def gradient_of(site: Site, adapter: Tensor, round_index: int) -> Tensor:
    """The client's gradient or pseudo-gradient of a round (shape ``[n]``) at ``adapter`` (Algorithm 2, step 3)."""
    return local_update(site.adapted, adapter, site.split()[1], site.config.train, site.seed(round_index))
