"""The command ``dr-encoder traffic``."""

from pathlib import Path
from typing import Annotated

import typer

from server_app.results.tracking import watched
from workbench.saying import say


def traffic(
    results: Annotated[Path, typer.Argument(help="results/<run> of a run that has ended, on this machine")],
    connection: Annotated[str, typer.Argument(help="the SuperLink's name in config.toml; left out: the default")] = "",
) -> None:
    """Put Flower's own count of a deployed run's bytes beside this app's: traffic.json and, if it may, the report."""
    from server_app.results.folder import RunFolder  # noqa: PLC0415
    from workbench.simulation import traffic as counts  # noqa: PLC0415 - seconds, which `keys` need not wait for

    folder = RunFolder(results)
    counts.check_deployed(folder, connection)
    runs = counts.flower_runs(folder)
    if not runs:
        raise counts.TrafficError(f"{folder.events}: no run of Flower's is named there")
    with watched("asking Flower"):
        found = counts.add_traffic(folder, counts.ask_for_all(runs, connection))
    say(f"Flower's own count: {counts.describe(found)}")
