"""A codec that cannot be made is refused before any client is asked, any budget is charged and anything is written."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.config import ConfigError
from common.model.adapted import AdaptedModel
from server_app import run
from server_app.run import run_federation
from server_app.strategies import recipe_of
from tests.support.strategy_runs import VARIANTS
from tests.support.tiny import CLIENTS, Files, planned, tiny_config, tiny_grid, tiny_strategy
from workbench.cli import main as cli
from workbench.cli import run as run_command

CONV: dict[str, Any] = {"codec.kind": "conv"}
ONLY = r"codec\.size = 64 with codec\.kind = 'conv'; allowed: 96, or 0 for it"
REFUSED = [
    ({"strategy.name": "dr-encoder", **CONV}, ONLY),
    ({"strategy.name": "fedcg", **CONV}, ONLY),
    ({"strategy.name": "dr-encoder", "codec.kind": "identity"}, r"codec\.size = 64 with .*'identity'; allowed: 3072"),
    ({"strategy.name": "dr-encoder", "codec.form": "per-tensor", "codec.size": 7}, r"codec\.size = 7 is too small"),
    *(
        ({"strategy.name": "dr-encoder", "codec.form": form, "codec.size": 0}, r"codec\.size = 0 is out of range")
        for form in ("global", "trained", "optimum", "variance-proportional")
    ),
    ({"strategy.name": "fedcg", "codec.size": 0}, r"codec\.size = 0 is out of range"),
    ({"strategy.name": "random-projection", "codec.form": "optimum"}, r'codec\.form = "optimum": .*global, per-tensor'),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_run_is_refused_before_it_waits_for_clients(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(run, "connect", lambda *_: pytest.fail("clients were waited for"))
    config = tiny_config(files, tmp_path / "out", changes)
    with pytest.raises(ConfigError, match=message):
        run_federation(tiny_grid(config), config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_planning_refuses_it_alike(
    files: Files, tmp_path: Path, adapted: AdaptedModel, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(tiny_config(files, tmp_path, changes), adapted, CLIENTS)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_what_is_planned_is_what_is_prepared(
    files: Files, tmp_path: Path, adapted: AdaptedModel, changes: dict[str, Any]
) -> None:
    """Whatever passes has a codec, of the size that the plan was made for."""
    config = tiny_config(files, tmp_path, changes)
    if config.lora.freeze_a:
        return
    strategy = tiny_strategy(config, adapted, tmp_path / "run")
    assert strategy.prepare(tiny_grid(config)).size == recipe_of(config, adapted.layout).code_size


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_command_line_refuses_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(run_command, "launch", lambda *_, **__: pytest.fail("a run was started"), raising=False)
    options = ["--set", "codec.kind=conv", "--set", f"output.dir={tmp_path / 'out'}"]
    result = CliRunner().invoke(cli.app, [command, *(options if command == "run" else options[:2])])
    assert result.exit_code == 1
    assert "error: codec.size = 256 with codec.kind = 'conv'; allowed: 384, or 0 for it" in result.output
    assert not (tmp_path / "out").exists()
