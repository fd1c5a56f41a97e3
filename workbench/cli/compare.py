"""``dr-encoder compare``."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.config import RunConfig
from common.counts import count
from server_app.results.tracking import watched
from workbench.cli.command_line import stopped, warn
from workbench.cli.paths import absolute_paths
from workbench.compare.folder import PAGE, check_folder
from workbench.compare.spec import OWN, ComparisonSpec, check_spec, read_changes, read_epsilons, refuse_without_effect
from workbench.compare.tuning import FIRST
from workbench.saying import say
from workbench.simulation.launcher import read_preset
from workbench.stopping import terminate_as_interrupt


def compare(
    strategies: Annotated[
        str, typer.Option(help="comma-separated names; name+key=value+key=value gives one its own keys")
    ] = "dr-encoder,lora,random-projection",
    epsilons: Annotated[str, typer.Option(help="comma-separated budgets; inf = no privacy")] = "0.5,1,2,4,8,inf",
    preset: Annotated[str, typer.Option(help="preset name, or a TOML file: the keys that all runs share")] = "demo",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value for all runs; repeatable")] = None,
    tasks: Annotated[
        str, typer.Option(help="of the demo data, comma-separated: elicitation, knowledge; left out: the first")
    ] = "",
    seeds: Annotated[int, typer.Option(help="evaluated seeds of each row: 1, 2, ...", min=1)] = 5,
    clients: Annotated[int, typer.Option(help="enrolled clients M (then delta = 1/(10 M)); 0 = the preset's")] = 0,
    cohort: Annotated[int, typer.Option(help="expected clients in a round K; 0 = 100, or all if fewer")] = 0,
    rounds: Annotated[int, typer.Option(help="rounds T; 0 = the preset's")] = 0,
    trials: Annotated[int, typer.Option(help="step sizes tried for each row, at most", min=FIRST)] = 6,
    tuning_seeds: Annotated[int, typer.Option(help="runs of each trial", min=1)] = 2,
    controls: Annotated[str, typer.Option(help="learned = for trained codecs; all; none")] = "learned",
    centralized: Annotated[bool, typer.Option(help="the reference row of pooled data without privacy")] = True,
    jobs: Annotated[int, typer.Option(help="runs at a time, a process each", min=1)] = 2,
    budget_hours: Annotated[
        float, typer.Option(help="start no run after so many hours, and tell of what is done; 0 = no end", min=0)
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="folder of the results; one that exists is continued")] = Path(
        "results/comparison"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check, measure and estimate, but do not run")] = False,
) -> None:
    """Run strategies side by side at equal ε, tuned with equal effort, and draw the picture. Can be interrupted."""
    changes, keys = read_changes(overrides or [], "--set"), read_preset(preset)
    changes |= absolute_paths(RunConfig.parse({**keys, **changes}))
    own = changes.get("data.name", keys.get("data.name", "demo")) != "demo"
    spec = ComparisonSpec(
        strategies=_names(strategies),
        epsilons=read_epsilons(epsilons),
        tasks=_names(tasks) or ([OWN] if own else ["elicitation"]),
        seeds=seeds,
        clients=clients,
        cohort=cohort,
        rounds=rounds,
        trials=trials,
        tuning_seeds=tuning_seeds,
        controls=controls,
        centralized=centralized,
    )
    refuse_without_effect(spec, check_spec(spec, keys, changes), changes)
    check_folder(out)
    from workbench.compare import session  # noqa: PLC0415 - torch, which a refusal above need not wait for
    from workbench.compare.plan import make_cells  # noqa: PLC0415
    from workbench.planning.local_model import check_rows  # noqa: PLC0415

    say("planning: the noise of every row")
    with watched("planning"):
        cells = make_cells(spec, keys, changes)
        found_in_rows = check_rows(RunConfig.parse(cells[-1].flat), clients)
    for warning in dict.fromkeys([*found_in_rows, *(cell.warning for cell in cells if cell.warning)]):
        warn(warning)
    command = shlex.join(["dr-encoder", *sys.argv[1:]])
    try:
        with terminate_as_interrupt():
            found = session.compare(cells, spec, command, out, jobs, dry_run=dry_run, budget_hours=budget_hours)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        raise stopped(error, f"; the same command goes on with what is done in {out}") from None
    except session.OutOfTime as error:
        say(str(error), err=True)
        raise typer.Exit(3) from None
    if found is not None:
        say((out / PAGE).read_text(encoding="utf-8"))
        say(f"results: {out} (comparison.md, comparison.json, plots, runs/)")
        if found["unfinished"]:
            left = count(len(found["unfinished"]), "row")
            say(f"--budget-hours {budget_hours:g} are over with {left} left; the same command goes on", err=True)
            raise typer.Exit(3)
        if found["failed"]:
            say(f"{count(len(found['failed']), 'run')} failed: {json.dumps(found['failed'][:3])}", err=True)
            raise typer.Exit(2)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
