"""What a run would ask of a site, by the plan that its server will make, against the limits that the site has set."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from client_app.policy import SitePolicy
from client_app.site_ledger import LimitReached, SiteLedger, charged, read_ledger
from common.config import RunConfig
from common.counts import count
from common.privacy.mechanism import ReleaseTerms
from server_app.privacy.plan import PrivacyPlan
from server_app.run import plan_run
from server_app.strategies import recipe_of
from server_app.strategies.recipe import Recipe
from workbench.planning.architectures import shape_of


class NoRoom(PermissionError):
    """The site's limits leave no room for all that a run asks of a client that is in every round."""


def compared(policy: SitePolicy, run_config: Mapping[str, Any]) -> str:
    """How a run fits into the limits, in words; why it is not known where it is not.

    Raises ``PolicyRefusal`` for what is refused message by message, ``NoRoom`` where the ledger would be full before
    the last round of a run that asks everybody each time.
    """
    config = RunConfig.parse(dict(run_config))
    clients = config.federation.num_clients
    if not clients:
        return "not compared with the run, which does not say federation.num-clients"
    if config.privacy.trust == "secure":
        return "not compared with the run: what is seen of a masked message hangs on who else answers"
    recipe = recipe_of(config, shape_of(config.model, config.lora).layout)
    plan = plan_run(config, recipe, clients)
    asked = list(_messages(plan, recipe))
    for terms, raw in dict.fromkeys(asked):
        policy.check(terms, raw=raw)
    spent = (read_ledger(Path(policy.ledger_path)) if policy.ledger_path else None) or SiteLedger()
    room = _room(policy, spent, asked)
    said = f"the run asks a client for at most {count(len(asked), 'message')}"
    if room == len(asked):
        return f"{said}, all within the limits"
    rate = config.privacy.sampling_rate
    limits = f"max-releases = {policy.max_releases}, max-epsilon = {policy.max_epsilon:g}"
    if rate == 1:
        raise NoRoom(
            f"{said}, and {limits} leave room for {room} of them; what comes after is noise, and nobody is told"
        )
    return f"{said}, in about {rate * plan.rounds:.0f} of {count(plan.rounds, 'round')}; {limits} leave room for {room}"


def _messages(plan: PrivacyPlan, recipe: Recipe) -> Iterator[tuple[ReleaseTerms, bool]]:
    """All that a client is asked for that is in every cohort, in order, and whether it is sent in the clear."""
    if recipe.stage_one:
        terms = plan.stage_one_terms(recipe.stage_one)
        yield terms, not terms.noise_multiplier
    for _ in range(plan.rounds):
        yield plan.round_terms(recipe.code_size), False
    if plan.evaluation_terms:
        for _ in range(plan.evaluations):
            yield plan.evaluation_terms, False


def _room(policy: SitePolicy, spent: SiteLedger, asked: list[tuple[ReleaseTerms, bool]]) -> int:
    """How many of the messages the ledger pays for, one after the other."""
    for number, (terms, raw) in enumerate(asked):
        with_it = partial(SiteLedger.after, terms=terms, raw=raw, noise=0.0 if raw else policy.noise_of(terms))
        try:
            spent = charged(spent, policy, with_it)
        except LimitReached:
            return number
    return len(asked)
