"""The command ``dr-encoder export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from common.config import ConfigError
from server_app.results.naming import naming
from server_app.results.tracking import watched
from server_app.results.units import data_size
from workbench.cli.command_line import warn
from workbench.cli.overrides import parse_overrides
from workbench.saying import say
from workbench.using.request import asked, check_folder, check_hub_id


def export(
    adapter: Annotated[Path, typer.Option(help="an adapter in PEFT's format: results/<run>/adapter")],
    out: Annotated[Path, typer.Option(help="a new folder")],
    form: Annotated[
        Literal["merged", "adapter"],
        typer.Option(help="merged = a whole model, as safetensors; adapter = in PEFT's format with its card"),
    ] = "merged",
    dtype: Annotated[
        Literal["", "float32", "bfloat16", "float16"], typer.Option(help="merged: of the weights; left out: the run's")
    ] = "",
    model: Annotated[str, typer.Option(help="base model; left out: the run's, or the one that the adapter names")] = "",
    base_id: Annotated[str, typer.Option(help="hub id of the base model, where the run had a local copy")] = "",
    push_to: Annotated[str, typer.Option(help="then upload the folder to this repository of the hub (org/name)")] = "",
    public: Annotated[bool, typer.Option("--public", help="a repository made by --push-to is everybody's")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="model.* on top of the run's; repeatable")
    ] = None,
) -> None:
    """Write a finished adapter as a folder for others: merged into its base model, or by itself."""
    request = asked(adapter, parse_overrides(overrides) | ({"model.name": model} if model else {}))
    if public and not push_to:
        raise ConfigError("--public: no effect without --push-to; leave it out")
    if dtype and form == "adapter":
        raise ConfigError(f"--dtype {dtype}: an adapter is float32; leave it out, or --form merged")
    check_hub_id("--base-id", base_id)
    check_hub_id("--push-to", push_to)
    check_folder(out)
    with watched("loading the libraries"):
        from workbench.using import exporting, hub  # noqa: PLC0415 - torch, which a refusal above need not wait for
    with watched("writing"), naming(out):
        if form == "merged":
            exporting.export_merged(request, out, dtype, base_id)
        else:
            exporting.export_adapter(request, out, base_id)
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    say(f"{out}: {', '.join(path.name for path in files)} ({data_size(sum(p.stat().st_size for p in files))})")
    warn(hub.warning_of(out))
    if push_to:
        with watched(f"uploading to {push_to}"):
            address = hub.push(out, push_to, public=public)
        say(f"uploaded: {address}")
