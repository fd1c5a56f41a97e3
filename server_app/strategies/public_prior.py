"""Public prior: the code's directions are where the released model reacts to public prompts.

Every ``public-prior.refresh-every`` rounds the server makes pseudo-clients out of public prompts and labels that it
samples from the model of the last release, and takes the leading principal directions of their gradients. Nothing
else enters, so the prior is post-processing and costs no privacy.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
from flwr.serverapp import Grid
from torch import Tensor

from common import seeds
from common.adapter import Layout
from common.codecs.base import Codec
from common.codecs.rows import BlockRows
from common.codecs.subspace import SubspaceCodec
from common.config import TEMPLATE, ConfigError, PublicPriorConfig, RunConfig
from common.data import check_prompts_are_public, held_out_prompts
from common.demo.prompts import public_questions
from common.demo.tasks import template_of
from common.model.group_gradients import are_linear, group_gradients
from common.model.tangents import ModelTangents
from server_app.priors.public_gradients import directions, pseudo_clients, rows_bytes
from server_app.priors.public_prompts import check_enough, public_prompts, written_prompts
from server_app.results.published_names import public_name
from server_app.results.units import count, data_size
from server_app.rounds.round import OpenRound
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.findings import Findings
from server_app.strategies.recipe import PlannedEncoder, Recipe, check_size

OFF = 0.01
"""Of Wiener's factor, below which a row is turned off and not sent."""


class PublicPrior(FederatedAdapter):
    """Principal directions of pseudo-gradients as rows, weighted by energy and noise."""

    _prompts: list[str] | None = None

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """A subspace of rows of one value each, and what whole rows weigh; a pseudo-gradient keeps its length.

        The demo's own questions must be enough; files were counted before (``file_faults``).
        """
        prior, codec = config.public_prior, config.codec
        check_size(config.codec, layout)
        if not are_linear(layout):
            raise ConfigError(
                f'lora.target-modules = "{config.lora.target_modules}": strategy public-prior needs the gradients '
                "of linear layers; leave the embedding out"
            )
        if prior.prompts == TEMPLATE:
            check_enough(prior, len(_demo_questions(config)))
        short = BlockRows(layout, torch.tensor([[0, 1, codec.size]]), torch.zeros(codec.size))
        spec = SubspaceCodec(layout, short, torch.zeros(codec.size)).spec()
        rows = rows_bytes(layout, codec.size, prior, config.data.max_length) - spec.arrays["basis"].nbytes
        return Recipe(
            layout,
            codec.size,
            PlannedEncoder(spec, rows),
            keeps_length=True,
            encoder_changes_every=prior.refresh_every,
        )

    def prepare(self, grid: Grid) -> Codec:
        """The prior at the untouched model."""
        return self._prior(1)

    def configure(self, server_round: int, adapter: Tensor) -> OpenRound:
        """A round as ever, with a new prior when one is due."""
        if server_round > 1 and (server_round - 1) % self.config.public_prior.refresh_every == 0:
            self.state.codec = self._prior(server_round)
        return super().configure(server_round, adapter)

    def measure(self) -> "PriorFindings":
        """Time the encoding of one gradient by the last round's codec, with the server's model for a client's."""
        codec, vector = self._codec_of(max(1, self.state.round)), torch.ones(self.layout.size)
        started = time.monotonic()
        codec.encode(vector)
        seconds = time.monotonic() - started
        costs = PriorCosts.of(self.state.prior)
        return PriorFindings(self.config.public_prior, costs, seconds, self.codec.spec().nbytes)

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
        found = directions(self.layout, gradients, codec.size, prior, clients, adapter)
        floor = self._noise_floor()
        on = rows_on(found.energies, floor)
        energies = found.energies[on]
        scales = row_scales(energies, whitening=prior.whitening, floor=floor)
        costs = PriorCosts.of(self.state.prior)
        self.state.prior = PriorCosts(
            refreshes=costs.refreshes + 1,
            seconds=costs.seconds + time.monotonic() - started,
            prompts=float(len(prompts)),
            energy=float(energies.sum()),
            rows=float(len(energies)),
        ).figures()
        return SubspaceCodec(self.layout, found.rows.only(on), scales)

    def _pool(self) -> list[str]:
        """The public prompts, made once; none of them is a question that anything is scored on, or that clients ask."""
        if self._prompts is None:
            data, prior, seed = self.config.data, self.config.public_prior, self.config.seed
            template = prior.template or (template_of(data.task) if data.name == "demo" else "")
            written = written_prompts(prior, template, _demo_questions(self.config))
            if prior.names_file:
                check_prompts_are_public(prior.prompts, written, data, len(self.nodes), seed)
            self._prompts = public_prompts(
                self.adapted, prior, template, written, held_out_prompts(data, seed), seed,
                data.max_length,
            )  # fmt: skip
        return self._prompts

    def _noise_floor(self) -> float:
        """Energy of the noise on the mean code along one direction, averaged over the run's rounds; public.

        In units of the clip norm, and as present in the trust model at hand: in ``local`` it grows with the cohort.
        """
        deviation = self.account.plan.mean_noise(self.config.codec.size)
        return self.config.public_prior.noise_floor * deviation**2 / self.config.num_server_rounds


@dataclass(frozen=True)
class PriorCosts:
    """What all priors of a run have cost the server, and what the last one is made of.

    Attributes:
        refreshes: times that a prior was made.
        seconds: what they took together.
        prompts: in the pool of the last one.
        energy: share of the pseudo-gradients' energy that its rows hold.
        rows: that it has; those that the noise drowns are left out (``rows_on``).

    """

    refreshes: float = 0.0
    seconds: float = 0.0
    prompts: float = 0.0
    energy: float = 0.0
    rows: float = 0.0

    @classmethod
    def of(cls, figures: Mapping[str, float]) -> "PriorCosts":
        """The inverse of ``figures``; nothing before the first prior."""
        return cls(**{each.name: figures.get(f"public_prior_{each.name}", 0.0) for each in fields(cls)})

    def figures(self) -> dict[str, float]:
        """As the report and a checkpoint have them."""
        return {f"public_prior_{name}": value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class PriorFindings(Findings):
    """What the prior is made of and what it costs, in seconds of the server and in bytes to a client."""

    settings: PublicPriorConfig
    costs: PriorCosts
    seconds_to_encode: float
    encoder_bytes: int

    def details(self) -> dict[str, object]:
        """Settings, costs and a sentence of them."""
        prior, costs = self.settings, self.costs
        return {
            "prompts": prior.prompts,
            "prompts_in_pool": costs.prompts,
            "pseudo_clients": prior.pseudo_clients,
            "form": prior.form,
            "delivery": prior.delivery,
            "refreshes": costs.refreshes,
            "server_seconds_per_refresh": costs.seconds / max(1.0, costs.refreshes),
            "seconds_to_encode_one_gradient": self.seconds_to_encode,
            "encoder_bytes_down_per_refresh": self.encoder_bytes,
            "pseudo_gradient_energy_in_rows": costs.energy,
            "rows": costs.rows,
            "summary": f"a public prior of {costs.prompts:.0f} prompts ({public_name(prior.prompts)}), made "
            f"{count(int(costs.refreshes), 'time')} on the server; a client gets "
            f"{data_size(self.encoder_bytes)} of it, once for each time",
        }


def _demo_questions(config: RunConfig) -> tuple[str, ...]:
    """What a template without a file of words is filled to; nothing for other data, which have no such pairs."""
    prior, data = config.public_prior, config.data
    if data.name != "demo" or prior.prompts != TEMPLATE:
        return ()
    return public_questions(data.task, prior.template)


def rows_on(energies: Tensor, floor: float) -> Tensor:
    """Which rows are worth sending (bool, shape ``[k]``); the first one at least.

    Not those of which Wiener's factor, λ/(λ + floor), is below ``OFF``: it acts twice, so they hold less than ``OFF``²
    of their own step, and as little of the noise. Energies and floor are of released and public things alone.
    """
    energies = energies.double()
    on = (energies > 0) & (energies >= OFF * (energies + floor))
    on[energies.argmax()] = True
    return on


def row_scales(energies: Tensor, *, whitening: float, floor: float) -> Tensor:
    """Scales of the prior's rows, shape ``[k]``.

    A row of energy λ gets ``λ^-whitening · λ / (λ + floor)``: strong directions are turned down, and those that the
    noise drowns are turned off, by Wiener's factor at either end (once when encoding, once when decoding: with one
    factor for both, the many weak rows together still carry most of the noise). All are then multiplied alike, so that
    the code of a pseudo-gradient, at unit length, is decoded to unit length in the mean square: a step size means the
    same for every choice.
    """
    energies = energies.double()
    there = energies > 0
    safe = torch.where(there, energies, 1.0)
    squares = torch.where(there, safe ** (-2 * whitening) * (safe / (safe + floor)) ** 2, 0.0)
    held, decoded = float(squares @ energies), float(squares.square() @ energies)
    return (squares * (held / decoded) if decoded else squares).sqrt().float()
