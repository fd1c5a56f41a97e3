"""The ClientApp: handlers unpack a message, call the algorithm and pack the reply."""

import math

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.guard import guarded
from client_app.local_update import gradient_stream, local_update
from client_app.release import release_gradient
from client_app.site import Site, encoder_for
from client_app.statistics import gradient_statistics
from common.codecs.statistics import NonFiniteStatistics
from common.privacy.mechanism import release
from common.scale_code import ScaleCode
from common.wire import WireError, pack_release, unpack_instruction

app = ClientApp()


@app.query("statistics")
@guarded
def statistics(message: Message, context: Context) -> Message:
    """Stage 1: release this client's gradient statistics (Algorithm 1, client side)."""
    adapter, _, task = unpack_instruction(message.content)
    site = Site.of(context)
    site.check_adapter(adapter)
    site.accept(task, context)
    settings, layout = site.config.statistics, site.adapted.layout
    if not task.raw and task.terms.size != ScaleCode.of(layout, settings).size:
        raise WireError(f"release terms say {task.terms.size} values; these statistics have another number")
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
            code = scales.encode(gradient_statistics(gradients, layout, settings).std)
        except NonFiniteStatistics:
            code = torch.full((scales.size,), math.nan)  # an error would tell of private data; see ``release``
        values = release(code, task.terms, site.noise_source(0))
    return Message(pack_release(values, task.round), reply_to=message)


@app.train()
@guarded
def train(message: Message, context: Context) -> Message:
    """Stage 2: release this client's encoded, clipped, noised gradient (Algorithm 2, client side)."""
    adapter, spec, task = unpack_instruction(message.content)
    if task.raw:
        raise WireError("a gradient is never asked for in the clear: only stage 1 may be raw")
    site = Site.of(context)
    site.check_adapter(adapter)
    site.accept(task, context)
    encoder = encoder_for(spec, site, task.terms.size)
    gradient = local_update(site.adapted, adapter, site.examples, site.config.train, site.seed(task.round))
    values = release_gradient(gradient, encoder, task.terms, site.noise_source(task.round))
    return Message(pack_release(values, task.round), reply_to=message)
