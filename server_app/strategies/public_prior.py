"""Public prior: the code's directions are where the released model reacts to public prompts.

Every ``public-prior.refresh-every`` rounds the server makes pseudo-clients out of public prompts and labels that it
samples from the model of the last release, and takes the leading principal directions of their gradients. Nothing
else enters, so the prior is post-processing and costs no privacy.
"""

import time

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from common import seeds
from common.adapter import Layout
from common.codecs.base import Codec
from common.codecs.rows import BlockRows
from common.codecs.subspace import SubspaceCodec
from common.config import TEMPLATE, ConfigError, RunConfig
from common.data import check_demo, held_out_prompts
from common.demo.prompts import public_questions
from common.demo.tasks import template_of
from common.model.group_gradients import are_linear, group_gradients
from common.model.tangents import ModelTangents
from server_app.priors.public_gradients import directions, pseudo_clients, rows_bytes
from server_app.priors.public_prompts import check_enough, public_prompts
from server_app.privacy.plan import mean_noise
from server_app.results.units import count, data_size
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.recipe import PlannedEncoder, Recipe, check_size


class PublicPrior(FederatedAdapter):
    """Principal directions of pseudo-gradients as rows, weighted by energy and noise, and random rows if wanted."""

    _prompts: list[str] | None = None

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """A subspace without rows, and what its rows will weigh; a pseudo-gradient is decoded to its own length.

        The demo's own questions must be enough; files were counted before (``RunConfig.check_files``).
        """
        prior, codec = config.public_prior, config.codec
        check_size(config, layout)
        if not are_linear(layout):
            raise ConfigError(
                f'lora.target-modules = "{config.lora.target_modules}": strategy public-prior needs the gradients '
                "of linear layers; leave the embedding out"
            )
        if prior.prompts == TEMPLATE and not prior.slots:
            check_enough(prior, len(_demo_questions(config)))
        none = BlockRows(layout, torch.tensor([[0, layout.size, 0]]), torch.zeros(0))
        spec = SubspaceCodec(layout, none, torch.zeros(codec.size), transform=codec.transform).spec()
        rows = rows_bytes(layout, codec.size - prior.random_rows, prior, config.data.max_length)
        return Recipe(layout, codec.size, PlannedEncoder(spec, rows), keeps_length=True)

    def prepare(self, grid: Grid) -> Codec:
        """The prior at the untouched model."""
        return self._prior(1)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """A round as ever, with a new prior when one is due."""
        if server_round > 1 and (server_round - 1) % self.config.public_prior.refresh_every == 0:
            self.state.codec = self._prior(server_round)
        return super().configure_train(server_round, arrays, config, grid)

    def details(self) -> dict[str, object]:
        """What the prior is made of and what it costs; seconds are the server's, for one gradient on a client too."""
        prior = self.config.public_prior
        spec, vector = self.codec.spec(), torch.ones(self.layout.size)
        started = time.monotonic()
        self._codec_of(max(1, self.state.round)).encode(vector)
        encoding = time.monotonic() - started
        costs = {name: value for name, value in self.state.prior.items() if name.startswith("public_prior_")}
        refreshes = costs.get("public_prior_refreshes", 0.0)
        pool, seconds = costs.get("public_prior_prompts", 0.0), costs.get("public_prior_seconds", 0.0)
        each = seconds / max(1.0, refreshes)
        return {
            "prompts": prior.prompts,
            "prompts_in_pool": pool,
            "pseudo_clients": prior.pseudo_clients,
            "form": prior.form,
            "delivery": prior.delivery,
            "refreshes": refreshes,
            "server_seconds_per_refresh": each,
            "seconds_to_encode_one_gradient": encoding,
            "encoder_bytes_down_per_client_round": spec.nbytes,
            "pseudo_gradient_energy_in_rows": costs.get("public_prior_energy", 0.0),
            "summary": f"a public prior of {pool:.0f} prompts ({prior.prompts}), made "
            f"{count(int(refreshes), 'time')} on the server; each round a client gets {data_size(spec.nbytes)} of it",
        }

    def _codec_of(self, server_round: int) -> Codec:
        """The codec of a round, with the server's model at hand."""
        return super()._codec_of(server_round).bound(ModelTangents(self.adapted))

    def _prior(self, server_round: int) -> Codec:
        """The prior that follows from the released adapter, the public prompts and the seed; adds up its cost."""
        started = time.monotonic()
        prior, codec, adapter = self.config.public_prior, self.config.codec, self.state.optimizer.adapter
        seed = seeds.of_round(self.config.seed, server_round)
        prompts = self._pool()
        clients = pseudo_clients(self.adapted, adapter, prompts, prior, seed)
        gradients = group_gradients(self.adapted, adapter, clients.tokens, clients.spans)
        found = directions(self.layout, gradients, codec.size - prior.random_rows, prior, clients, adapter)
        scales = row_scales(
            found.energies, prior.random_rows, self.layout.size, whitening=prior.whitening, floor=self._noise_floor()
        )
        costs = self.state.prior
        costs["public_prior_refreshes"] = costs.get("public_prior_refreshes", 0.0) + 1
        costs["public_prior_seconds"] = costs.get("public_prior_seconds", 0.0) + time.monotonic() - started
        costs["public_prior_prompts"] = float(len(prompts))
        costs["public_prior_energy"] = float(found.energies.sum())
        return SubspaceCodec(self.layout, found.rows, scales, transform=codec.transform, seed=self.config.seed)

    def _pool(self) -> list[str]:
        """The public prompts, made once; none of them is a question that anything is scored on."""
        if self._prompts is None:
            data, prior, seed = self.config.data, self.config.public_prior, self.config.seed
            template = prior.template or (template_of(data.task) if data.name == "demo" else "")
            self._prompts = public_prompts(
                self.adapted, prior, template, _demo_questions(self.config), held_out_prompts(data, seed), seed,
                data.max_length,
            )  # fmt: skip
        return self._prompts

    def _noise_floor(self) -> float:
        """Energy of the noise on the mean code along one direction, averaged over the run's rounds; public.

        In units of the clip norm, and as present in the trust model at hand: in ``local`` it grows with the cohort.
        """
        deviation = mean_noise(self.config.privacy, self.account.plan, self.config.codec.size)
        return self.config.public_prior.noise_floor * deviation**2 / self.config.num_server_rounds


def _demo_questions(config: RunConfig) -> tuple[str, ...]:
    """What a template without a file of words is filled to; nothing for other data, which have no such pairs."""
    prior, data = config.public_prior, config.data
    if data.name != "demo" or prior.prompts != TEMPLATE or prior.slots:
        return ()
    check_demo(data)
    return public_questions(data.task, prior.template)


def row_scales(energies: Tensor, fresh: int, dim: int, *, whitening: float, floor: float) -> Tensor:
    """Scales of the prior's rows and of ``fresh`` random ones behind them, shape ``[k + fresh]``.

    A row of energy λ gets ``λ^-whitening · λ / (λ + floor)``: strong directions are turned down, and those that the
    noise drowns are turned off, by Wiener's factor at either end (once when encoding, once when decoding: with one
    factor for both, the many weak rows together still carry most of the noise). The random rows share one scale, at
    which they hold as much of a gradient's energy as the prior's rows do together. All are then multiplied alike, so
    that the code of a pseudo-gradient, at unit length, is decoded to unit length in the mean square: a step size means
    the same for every choice.
    """
    energies = energies.double()
    there = energies > 0
    safe = torch.where(there, energies, 1.0)
    squares = torch.where(there, safe ** (-2 * whitening) * (safe / (safe + floor)) ** 2, 0.0)
    if fresh:
        outside = max(1e-3, 1 - float(energies.sum())) / dim
        held = float(squares @ energies)
        energies = torch.cat((energies, torch.full((fresh,), outside).double()))
        squares = torch.cat((squares, torch.full((fresh,), held / (fresh * outside) if held else 1.0).double()))
    held, decoded = float(squares @ energies), float(squares.square() @ energies)
    return (squares * (held / decoded) if decoded else squares).sqrt().float()
