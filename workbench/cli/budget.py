"""The command ``dr-encoder budget``."""

from typing import Annotated

import typer

from server_app.results.tracking import watched
from workbench.planning.budget_request import Accountant, BudgetRequest, Trust, config_of
from workbench.saying import say


def budget(
    clients: Annotated[int, typer.Option(help="enrolled clients M", min=1)],
    sampling_rate: Annotated[float, typer.Option(help="probability that a client is in a round; 1 = everybody")],
    rounds: Annotated[int | None, typer.Option(help="communication rounds T; left out: solved")] = None,
    epsilon: Annotated[float | None, typer.Option(help="epsilon of the released model; left out: solved")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="noise of a round over the clip norm; left out: solved")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="below 1/M; left out: 1/(10 M)")] = None,
    statistics_share: Annotated[
        float, typer.Option(help="share of epsilon for stage 1, which has twice the noise if that is given; 0 = none")
    ] = 0.0,
    statistics_rate: Annotated[float | None, typer.Option(help="sampling rate of stage 1; left out: the same")] = None,
    trust: Annotated[Trust, typer.Option(help="who adds the noise")] = ("distributed"),
    colluders: Annotated[
        int,
        typer.Option(help="distributed, secure: clients that subtract their own noise; the others add more", min=0),
    ] = 1,
    dropouts: Annotated[
        int, typer.Option(help="secure: clients that a round may lack; their noise is not counted on either", min=0)
    ] = 1,
    evaluation_share: Annotated[
        float, typer.Option(help="share of epsilon for private evaluations (evaluation.private); 0 = none")
    ] = 0.0,
    evaluation_every: Annotated[int, typer.Option(help="rounds between them (evaluation.every)", min=1)] = 1,
    code_values: Annotated[
        int, typer.Option(help="size of a code; moves only the delta that is set aside", min=1)
    ] = 256,
    accountant: Annotated[Accountant, typer.Option(help="pld is the guarantee; the others are comparisons")] = "pld",
    check: Annotated[bool, typer.Option("--check/--no-check", help="ask the second accountant (some seconds)")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with epsilon after every round")] = False,
) -> None:
    """Plan without a run: give two of --epsilon, --noise-multiplier and --rounds, and the third is solved."""
    request = BudgetRequest(
        clients=clients,
        sampling_rate=sampling_rate,
        delta=delta,
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        rounds=rounds,
        statistics_share=statistics_share,
        statistics_rate=statistics_rate,
        trust=trust,
        accountant=accountant,
        code_values=code_values,
        colluders=colluders,
        dropouts=dropouts,
        evaluation_share=evaluation_share,
        evaluation_every=evaluation_every,
        check=check,
    )
    config_of(request)  # refuses at once what the planner would refuse after its imports
    from workbench.planning import budget as planner  # noqa: PLC0415 - takes seconds to import

    with watched("computing the privacy loss"):
        text = planner.to_json(request) if as_json else planner.to_text(request)
    say(text)
