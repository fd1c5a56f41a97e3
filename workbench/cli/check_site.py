"""``dr-encoder check-site``."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.deployment.site_files import read_run, read_site_env
from workbench.saying import say


def check_site(
    site_env: Annotated[
        Path | None, typer.Option(help="the unit's file: SUPERLINK and NODE_CONFIG are taken from it")
    ] = None,
    node_config: Annotated[str, typer.Option(help="what flower-supernode gets, in place of the file's")] = "",
    superlink: Annotated[str, typer.Option(help="host:port to ask for certificate and clock, likewise")] = "",
    root_certificates: Annotated[
        Path | None, typer.Option(help="the authority of that server; left out: the system's")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the run's keys; left out: the demo's")] = None,
) -> None:
    """Try a site before a run: limits, data, model, one local update; certificate and clock. Nothing is released."""
    given = read_site_env(site_env) if site_env else {}
    run = read_run(config)
    from workbench.deployment.site_check import check_site as check  # noqa: PLC0415 - flwr, which a refusal above need not wait for

    findings = check(
        node_config or given.get("NODE_CONFIG", ""),
        run,
        superlink or given.get("SUPERLINK", ""),
        str(root_certificates or ""),
    )
    for finding in findings:
        color = typer.colors.GREEN if finding.passed else typer.colors.RED
        say(f"{'ok  ' if finding.passed else 'FAIL'} {finding.what}: {finding.text}", fg=color)
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)
