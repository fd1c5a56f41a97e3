"""``dr-encoder run``: everything that can be checked first, from cheap to dear, then the real ``flwr run``."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from common.config import ConfigError, DataConfig, RunConfig, Scalar
from common.file_names import names_a_file
from common.privacy.delta import check_delta
from common.private_files import private_file
from server_app.results.folder import RunFolder
from server_app.results.output_place import check_output
from server_app.results.resuming import check_same_run, how_to_resume, why_not_resumable, why_other_clients
from server_app.results.trackers import check_tracker
from server_app.results.tracking import watched
from server_app.strategies import check_strategy
from workbench.cli.command_line import of_the_system, stopped, warn
from workbench.cli.overrides import parse_overrides
from workbench.cli.paths import absolute_paths
from workbench.cli.unread_keys import refuse_unread, unread_of_data, unread_warning
from workbench.planning.model_directory import check_directory
from workbench.saying import say
from workbench.simulation.launcher import LaunchError, Resources, launch, preset_names, read_preset, read_resumed
from workbench.simulation.run_summary import summary_of

Engine = Literal["flower", "inline"]
_SIMULATED_CLIENTS = 10  # when neither the preset nor the user says how many
_PRESET = "demo"  # when nothing is resumed


def run(
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"a preset ({', '.join(preset_names())}), or a TOML file: a run's config.toml, say",
            show_default=_PRESET,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="key=value on top of the preset, in TOML syntax; repeatable; dr-encoder keys lists them"
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="continue the interrupted run in this results folder")] = None,
    cpus: Annotated[int, typer.Option(help="CPU cores for simulated clients", min=1)] = 2,
    cpus_per_client: Annotated[int, typer.Option(help="CPU cores that one client at a time occupies", min=1)] = 1,
    gpus_per_client: Annotated[float, typer.Option(help="GPU share of one simulated client", min=0)] = 0.0,
    engine: Annotated[
        Engine, typer.Option(help="flower: the real flwr run; inline: this process, one core")
    ] = "flower",
) -> None:
    """Simulate a federation with the real flwr run; ends non-zero when the run did not complete."""
    started = time.monotonic()
    folder = Path()
    try:
        resources = Resources(cpus, cpus_per_client, gpus_per_client)
        _check_cpus(resources)
        config = _configure(preset, overrides or [], resume)
        clients = config.federation.num_clients or _SIMULATED_CLIENTS
        _check(config, clients)
        _check_gpus(config, gpus_per_client)
        config = _named(config)
        folder = Path(config.output.dir) / config.output.name
        if engine == "inline":
            _run_inline(config, clients)
        else:
            _launch(config, clients, resources)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        raise stopped(error, _how_to_go_on(folder, engine)) from None
    except (LaunchError, OSError) as error:
        goes_on = folder.name and folder.is_dir() and not why_not_resumable(folder)
        said = of_the_system(error) if isinstance(error, OSError) else str(error)
        raise LaunchError(f"{said}{_how_to_go_on(folder, engine) if goes_on else ''}") from None
    if not (folder / "report.json").exists():  # somebody has asked it to stop
        say(f"stopped{_how_to_go_on(folder, engine)}", err=True)
        raise typer.Exit(130)
    say(summary_of(folder, time.monotonic() - started))


def _launch(config: RunConfig, clients: int, resources: Resources) -> None:
    log_path = RunFolder(Path(config.output.dir) / config.output.name).engine_log
    try:
        private_file(log_path)  # it tells the cohorts
    except PermissionError as error:
        name = config.output.name
        raise ConfigError(f'output.name = "{name}": {error}; move it away, or give another name') from None
    say(f"starting Flower's simulation engine (about 20 s; its log: {log_path})")
    with log_path.open("a" if config.resume else "w", encoding="utf-8") as log:  # a new run begins a new log
        launch(config, clients, resources, log)


def _run_inline(config: RunConfig, clients: int) -> None:
    from workbench.simulation.inline import run_inline  # noqa: PLC0415 - torch, which a refusal does not wait for

    try:
        run_inline(config, clients)
    finally:
        if not config.resume:  # it kept the name until the folder had it
            RunFolder(Path(config.output.dir) / config.output.name).engine_log.unlink(missing_ok=True)


def _configure(preset: str | None, overrides: list[str], resume: Path | None) -> RunConfig:
    """The preset with the changes on top, checked as far as can be without a library; with absolute paths.

    Absolute, since Flower runs elsewhere.
    """
    changes = parse_overrides(overrides)
    key = str(changes.pop("resume", ""))
    if preset is not None and (resume or key):
        raise ConfigError(f'--preset "{preset}" with --resume: a run goes on as it was planned; leave one of them out')
    flat: dict[str, Scalar] = {} if resume or key else read_preset(preset or _PRESET)
    wanted = str(resume or key or flat.pop("resume", ""))
    folder = Path(wanted).resolve() if wanted else None
    saved = read_resumed(folder) if folder else {}
    if folder:
        _check_resumable(folder)
    config = RunConfig.parse(saved | flat | changes)
    check_strategy(config)
    refuse_unread(config, changes)
    refuse_unread(config, changes, find=unread_of_data)
    warn(unread_warning(config, flat))
    if folder is None:
        check_output(config.output)
    config = RunConfig.parse(config.flat() | absolute_paths(config) | _place(config, folder))
    if folder:
        check_same_run(config)
    config.check_files()
    check_tracker(config.output)
    _check_is_there(config.data.name)
    return config


def _check_resumable(folder: Path) -> None:
    held = "another process is going on with it" if RunFolder(folder).is_held() else ""
    why = why_not_resumable(folder) or why_other_clients(folder, "simulated") or held
    if why:
        raise ConfigError(f'resume = "{folder}": {why}')


def _place(config: RunConfig, resumed: Path | None) -> dict[str, Scalar]:
    if resumed:
        return {"output.dir": str(resumed.parent), "output.name": resumed.name, "resume": str(resumed)}
    return {"output.dir": str(Path(config.output.dir).resolve()), "resume": ""}


def _named(config: RunConfig) -> RunConfig:
    """With the folder's name: one made of the time is nobody else's, for its log is there from now on."""
    place = Path(config.output.dir)
    place.mkdir(parents=True, exist_ok=True)
    if config.output.name:
        return config
    made = config.folder_name()
    for name in (made, *(f"{made}-{number}" for number in range(2, 1000))):
        if (place / name).exists():  # of an inline run: its log is gone
            continue
        with suppress(FileExistsError):
            RunFolder(place / name).engine_log.touch(exist_ok=False)
            return RunConfig.parse(config.flat() | {"output.name": name})
    raise ConfigError(f'output.name = "": {place / made} and its like are taken; give a name')


def _check(config: RunConfig, clients: int) -> None:
    """Refuse what the ServerApp or a client would refuse half a minute later; the dearest look comes last."""
    check_directory(config.model.name)
    _check_delta(config.privacy.delta, clients)
    from server_app.privacy.solving import check_shares  # noqa: PLC0415 - a second, which `keys` need not wait for

    check_shares(config, clients)
    with watched("checking the model and the data"):
        from common.model.base import device_of  # noqa: PLC0415 - torch, which a refusal above does not wait for
        from workbench.planning.local_model import (  # noqa: PLC0415
            check_model,
            check_plan,
            check_rows,
        )

        device_of(config.model)
        check_model(config)
        _check_data(config, clients)
        check_plan(config, clients)
        warnings = check_rows(config, clients)
    for warning in warnings:
        warn(warning)


def _check_group(config: RunConfig, private: list[str], public: list[str] | None) -> None:
    """Refuse a column of groups that was named and is nowhere; an absent one of the default's name parts nothing."""
    column = config.data.group_column
    if column == DataConfig().group_column or column in (*private, *(public or ())):
        return
    raise ConfigError(
        f'data.group-column = "{column}": not a column of "{config.data.name}"; leave it out where nothing is grouped'
    )


def _how_to_go_on(folder: Path, engine: Engine) -> str:
    """What a person who has stopped a run may do; the log of one that never began goes."""
    if not folder.name:  # stopped before it had one
        return ""
    if not folder.is_dir():
        RunFolder(folder).engine_log.unlink(missing_ok=True)
        return ""
    own = " --engine inline" if engine == "inline" else ""
    return "; " + (why_not_resumable(folder) or f"continue with: {how_to_resume(folder)}{own}")


def _check_is_there(name: str) -> None:
    if names_a_file(name) and not Path(name).exists():
        raise ConfigError(
            f'data.name = "{name}": no such file or directory; give "demo", a JSONL, CSV or Parquet file, a directory '
            "or a hub id"
        )


def _check_delta(delta: float, clients: int) -> None:
    if not delta:
        return
    try:
        check_delta(delta, clients)
    except ValueError as error:
        raise ConfigError(f"privacy.delta = {delta:g}: {error}; 0 = 1/(10 M)") from None


def _check_cpus(resources: Resources) -> None:
    """With fewer cores than one client occupies the engine would wait for more without end."""
    if resources.cpus_per_client > resources.num_cpus:
        raise ConfigError(
            f"--cpus-per-client {resources.cpus_per_client} with --cpus {resources.num_cpus}: no client would ever "
            "start; give at least as many cores as one client occupies"
        )


def _check_gpus(config: RunConfig, gpus_per_client: float) -> None:
    """Refuse a share of cards that are not there, and warn of cards that go unused.

    Ray hides every card from a client that asked for none, and ``auto`` then means the CPU.
    """
    import torch  # noqa: PLC0415 - which `keys` need not wait for

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus_per_client > found:
        raise ConfigError(f"--gpus-per-client {gpus_per_client:g}: CUDA devices on this machine: {found}; leave it out")
    if config.model.name != "demo" and not gpus_per_client and found:
        warn(
            "--gpus-per-client is 0, so simulated clients train on the CPU though this machine has a GPU; dr-encoder "
            "plan prints the share for each card"
        )


def _check_data(config: RunConfig, clients: int) -> None:
    """Read the data as the run will; a hub's are fetched here, where a wrong name costs no round."""
    from common.data import (  # noqa: PLC0415 - seconds, after all else
        check_demo_data,
        check_evaluation_is_public,
        evaluation_examples,
        private_examples,
        validation_examples,
    )

    public = evaluation_examples(config.data, config.seed)
    validation_examples(config.data, config.seed)
    if config.data.name == "demo":
        check_demo_data(config.data, clients)
    else:
        rows = private_examples(config.data, 0, clients, config.seed)
        _check_group(config, rows.column_names, None if public is None else public.column_names)
    if config.data.evaluation:
        check_evaluation_is_public(config.data, clients, config.seed)
