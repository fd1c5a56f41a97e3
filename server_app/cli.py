"""The ``dr-encoder`` command."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from common.config import SELF_GENERATED, TEMPLATE, ConfigError, RunConfig, Scalar, key_table, names_a_file
from server_app.cli_evaluate import evaluate
from server_app.cli_traffic import traffic
from server_app.launcher import LaunchError, Resources, launch, read_preset, read_resumed
from server_app.overrides import parse_override
from server_app.scalars import check_tensorboard
from server_app.terminal import clock, kilobytes, show

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_KEYS_HEADER = """# Configuration

Written by `dr-encoder keys`. A run takes one flat set of keys: the defaults below, then a preset or TOML file, then
`--set key=value`. With plain `flwr run` the same keys go to `-c`. TOML has no null: `0` or `""` means "not given" where
the meaning says so.
"""
_SIMULATED_CLIENTS = 10  # when neither the preset nor the user says how many


app.command()(evaluate)
app.command()(traffic)


@app.callback()
def main() -> None:
    """Private, compressed federated fine-tuning of language models."""


@app.command()
def run(
    preset: Annotated[str, typer.Option(help="preset name, or a TOML file (a run's config.toml, say)")] = "demo",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value on top of the preset, in TOML syntax; repeatable")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="continue the interrupted run in this results folder")] = None,
    cpus: Annotated[int, typer.Option(help="CPU cores for simulated clients", min=1)] = 2,
    cpus_per_client: Annotated[int, typer.Option(help="CPU cores that one client at a time occupies", min=1)] = 1,
    gpus_per_client: Annotated[float, typer.Option(help="GPU share of one simulated client", min=0)] = 0.0,
) -> None:
    """Simulate a federation with the real ``flwr run``; ends non-zero when the run did not complete."""
    started = time.monotonic()
    folder = Path()
    try:
        config = _configure(preset, overrides or [], resume)
        clients = config.federation.num_clients or _SIMULATED_CLIENTS
        _check(config, clients)
        _warn_of_idle_gpus(config, gpus_per_client)
        folder = Path(config.output.dir) / config.output.name
        log_path = folder.parent / f"{folder.name}.flower.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        typer.echo(f"starting Flower's simulation engine (about 20 s; its log: {log_path})")
        with log_path.open("a") as log:
            launch(config, clients, Resources(cpus, cpus_per_client, gpus_per_client), log)
    except (ConfigError, LaunchError) as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        hint = "" if _why_not_resumable(folder) else f"; continue with: dr-encoder run --resume {folder}"
        typer.secho(f"\nstopped{hint}", err=True)
        raise typer.Exit(130) from None
    _summarise(folder, time.monotonic() - started)


@app.command()
def keys() -> None:
    """Print every key of the run configuration as a Markdown table (docs/configuration.md is this)."""
    typer.echo(keys_markdown(), nl=False)


@app.command()
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
    trust: Annotated[Literal["central", "distributed", "local"], typer.Option(help="who adds the noise")] = (
        "distributed"
    ),
    colluders: Annotated[
        int, typer.Option(help="distributed: clients that subtract their own noise shares; the others add more", min=0)
    ] = 1,
    code_values: Annotated[
        int, typer.Option(help="size of a code; moves only the delta that is set aside", min=1)
    ] = 256,
    accountant: Annotated[
        Literal["pld", "prv", "rdp", "gdp"], typer.Option(help="pld is the guarantee; the others are comparisons")
    ] = "pld",
    check: Annotated[bool, typer.Option("--check/--no-check", help="ask the second accountant (some seconds)")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with epsilon after every round")] = False,
) -> None:
    """Plan without a run: give two of --epsilon, --noise-multiplier and --rounds, and the third is solved."""
    from server_app import budget as planner  # noqa: PLC0415 - takes seconds to import, which `run` need not wait for

    question = planner.Question(
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
        check=check,
    )
    try:
        text = planner.to_json(question) if as_json else planner.to_text(question)
    except ConfigError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
    typer.echo(text)


@app.command()
def plan(
    preset: Annotated[str, typer.Option(help="preset name, or a TOML file")] = "demo",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value on top; repeatable")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Size a run before anything is downloaded: parameters, bytes, memory, noise, GPUs."""
    from server_app import sizing  # noqa: PLC0415 - takes seconds to import, which `run` need not wait for

    try:
        flat, _ = _read(preset, dict(parse_override(text) for text in overrides or []), None)
        config = RunConfig.parse(flat)
        text = sizing.to_json(config) if as_json else sizing.to_text(config)
    except (ConfigError, LaunchError) as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
    typer.echo(text)


def keys_markdown() -> str:
    """The page docs/configuration.md."""
    rows = [f"| `{key}` | `{json.dumps(value)}` | {text} |" for key, value, text in key_table()]
    return "\n".join([_KEYS_HEADER, "| key | default | meaning |", "|---|---|---|", *rows, ""])


def _configure(preset: str, overrides: list[str], resume: Path | None) -> RunConfig:
    """The preset with the overrides on top, with absolute paths, since Flower runs elsewhere."""
    flat, folder = _read(preset, dict(parse_override(text) for text in overrides), resume)
    config = RunConfig.parse(flat)
    absolute: dict[str, Scalar] = {
        "output.dir": str(folder.parent if folder else Path(config.output.dir).resolve()),
        "output.name": folder.name if folder else config.folder_name(),
        "resume": str(folder or ""),
    }
    for key in ("data.evaluation", "public-prior.prompts", "public-prior.slots"):
        named = str(config.flat()[key])
        if named not in ("", SELF_GENERATED, TEMPLATE) and (names_a_file(named) or Path(named).exists()):
            absolute[key] = str(Path(named).resolve())
    if config.data.name != "demo" and Path(config.data.name).exists():
        absolute["data.name"] = str(Path(config.data.name).resolve())
    if config.model.name != "demo" and Path(config.model.name).is_dir():
        absolute["model.name"] = str(Path(config.model.name).resolve())
    config = RunConfig.parse(config.flat() | absolute)
    config.check_files()
    return config


def _read(preset: str, changes: dict[str, Scalar], resume: Path | None) -> tuple[dict[str, Scalar], Path | None]:
    """All keys that were asked for, and the folder of the run to resume; ``resume`` may be a key as well."""
    key = changes.pop("resume", "")
    wanted = str(resume or key or "")
    flat: dict[str, Scalar] = {} if wanted else read_preset(preset)
    wanted = wanted or str(flat.pop("resume", ""))
    folder = Path(wanted).resolve() if wanted else None
    saved = read_resumed(folder) if folder else {}
    return saved | flat | changes, folder


def _check(config: RunConfig, clients: int) -> None:
    """Refuse at once what the ServerApp or a client would refuse half a minute later."""
    why = _why_not_resumable(Path(config.resume)) if config.resume else ""
    if why:
        raise ConfigError(f'resume = "{config.resume}": {why}; start a new run')
    check_tensorboard(config)
    _check_is_there(config.data.name)
    _check_delta(config.privacy.delta, clients)
    _check_strategy(config.strategy.name)
    from common.base_model import device_of  # noqa: PLC0415 - torch, which `keys` need not wait for
    from server_app.local_model import check_known_codec, check_local_model  # noqa: PLC0415

    device_of(config.model)
    check_local_model(config)
    check_known_codec(config)
    _check_data(config, clients)


def _why_not_resumable(folder: Path) -> str:
    """Why the run in ``folder`` cannot be continued, or ``""``."""
    if not (folder / "checkpoint" / "latest").exists():
        return "it stopped before its first checkpoint"
    return "this run has ended" if (folder / "checkpoint" / "ended").exists() else ""


def _check_is_there(name: str) -> None:
    if names_a_file(name) and not Path(name).exists():
        raise ConfigError(
            f'data.name = "{name}": no such file or directory; give "demo", a JSONL, CSV or Parquet file, a directory '
            "or a hub id"
        )


def _check_delta(delta: float, clients: int) -> None:
    if not delta:
        return
    from common.privacy.accounting import check_delta  # noqa: PLC0415 - scipy, which `keys` need not wait for

    try:
        check_delta(delta, clients)
    except ValueError as error:
        raise ConfigError(f"privacy.delta = {delta:g}: {error}; 0 = 1/(10 M)") from None


def _check_strategy(name: str) -> None:
    from server_app.strategies import STRATEGIES  # noqa: PLC0415 - torch and flwr, which `keys` need not wait for

    if name not in STRATEGIES:
        raise ConfigError(f'strategy.name = "{name}": registered are {", ".join(sorted(STRATEGIES))}')


def _warn_of_idle_gpus(config: RunConfig, gpus_per_client: float) -> None:
    """Ray hides every card from a client that asked for none, and ``auto`` then means the CPU."""
    import torch  # noqa: PLC0415 - which `keys` need not wait for

    if config.model.name != "demo" and not gpus_per_client and torch.cuda.is_available():
        typer.secho(
            "warning: --gpus-per-client is 0, so simulated clients train on the CPU though this machine has a GPU; "
            "dr-encoder plan prints the share for each card",
            fg=typer.colors.YELLOW, err=True,
        )  # fmt: skip


def _check_data(config: RunConfig, clients: int) -> None:
    """Read local files as the run will; a hub data set is left to the run, and the demo needs no check."""
    local, held_out = Path(config.data.name).is_absolute(), Path(config.data.evaluation).is_absolute()
    if not (local or held_out):
        return
    from common.data import evaluation_examples, private_examples  # noqa: PLC0415 - seconds, which the demo saves

    if held_out:
        evaluation_examples(config.data, config.seed)
    try:
        if local:
            private_examples(config.data, 0, clients, config.seed)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(
            f'data.partitioner = "{config.data.partitioner}": cannot split "{config.data.name}" among {clients} '
            f"clients: {error}"
        ) from error


def _summarise(folder: Path, seconds: float) -> None:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    outcome, privacy, wire = report["outcome"], report["privacy"], report["communication"]
    base, final = outcome["base"], outcome["final"]
    released, server = privacy["released_model"], privacy["one_client_against_server"]
    lines = ["", f"Done in {clock(seconds)} ({outcome['stopped_because']})."]
    if "accuracy" in final:
        lines.append(f"  accuracy on held-out facts   {base['accuracy']:.1%} -> {final['accuracy']:.1%}")
    if final:
        lines.append(f"  held-out loss                {base['loss']:.3f} -> {final['loss']:.3f}")
    unclaimed = f" (nothing is claimed: {server['not_claimed_because']})" if server["not_claimed_because"] else ""
    lines += [
        f"  epsilon, released model      {show(released['epsilon'])} at delta {released['delta']:g}, end to end; "
        f"assumes: {released['assumes']}",
        f"  epsilon, client v. server    {show(server['epsilon'])}{unclaimed}",
        f"  up per client and round      {kilobytes(wire['bytes_up_per_client_round'])}, plain LoRA "
        f"{kilobytes(wire['bytes_up_per_client_round_plain_lora'])} "
        f"({wire['times_smaller_than_plain_lora']:.0f} times more)",
        f"  results                      {folder} (report.md, plots, adapter/)",
    ]
    if released["cross_check"].get("agrees") is False:
        lines.append("  THE TWO ACCOUNTANTS DISAGREE on that epsilon: see report.md before you rely on it")
    if report["run"]["control"] != "none":
        lines.append(f"  CONTROL RUN, not a result: server.control = {report['run']['control']}")
    if outcome["warning"]:
        lines.append(f"  WARNING: {outcome['warning']}")
    if privacy["not_private_because"]:
        lines.append(f"  NOT PRIVATE end to end: {privacy['not_private_because']}")
    if privacy["printed"]:
        lines.append(f"  the paper would claim        {privacy['printed']['claimed_epsilon']:.3f}: see report.md")
    if privacy["insecure_noise"]:
        lines.append("  INSECURE test noise: no epsilon above holds")
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    sys.exit(app())
