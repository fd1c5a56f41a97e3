"""What a strategy's two stages ask of a client, made of recipe and plan alone: for a run, and to size one before."""

from common.config import ServerConfig
from common.privacy.mechanism import ReleaseTerms
from common.trajectory import StepTerms
from common.wire.assignment import Task
from common.wire.digest import app_digest
from server_app.privacy.plan import PrivacyPlan
from server_app.privacy.stage_one import StageOne
from server_app.strategies.recipe import Recipe


def round_task(server: ServerConfig, recipe: Recipe, plan: PrivacyPlan, server_round: int, *, sums: bool) -> Task:
    """The task of a round of stage 2; ``sums``: clients are sent the released sums."""
    terms = plan.round_terms(recipe.code_size)
    return Task(
        server_round,
        terms,
        app_digest(),
        share=recipe.stage_one_share,
        refresh_every=recipe.refresh_every,
        step_terms=step_terms(server, recipe, plan, terms) if sums else None,
        evaluation=plan.evaluation_terms,
    )


def stage_one_task(plan: PrivacyPlan, stage: StageOne) -> Task:
    """The task of stage 1, raw where its terms ask for no noise."""
    terms = plan.stage_one_terms(stage)
    return Task(
        0,
        terms,
        app_digest(),
        raw=not terms.noise_multiplier,
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        share=stage.share,
    )


def step_terms(server: ServerConfig, recipe: Recipe, plan: PrivacyPlan, terms: ReleaseTerms) -> StepTerms:
    """How the sum of a round becomes a step."""
    return StepTerms(
        unit=terms.grid_step or 1.0,
        denominator=plan.expected_cohort,
        factor=recipe.step_factor,
        optimizer=server.optimizer,
        learning_rate=server.learning_rate,
    )
