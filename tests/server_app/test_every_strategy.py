"""What holds for every name in STRATEGIES and its options: bytes, restarts, controls, what a site may refuse."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from common.config import RunConfig
from common.model.adapted import load_adapted_model
from common.wire.records import TRAIN, round_of, serialized_bytes
from server_app.privacy.ledger import Ledger
from server_app.results import report
from server_app.results.checkpoints import load_checkpoint
from server_app.results.folder import RunFolder
from server_app.results.html import page
from server_app.results.plots import Drawn
from server_app.rounds.cohort import FederationError
from server_app.rounds.controls import CONTROLS, Control
from server_app.strategies import recipe_of
from tests.support.killed_runs import REPEATABLE as PRIVATE
from tests.support.killed_runs import killed_after, resumed
from tests.support.strategy_runs import NOISY, VARIANTS, Make
from tests.support.tiny import CLIENTS, Files, final_adapter, run_tiny, start, tiny_config, tiny_grid

pytestmark = pytest.mark.usefixtures("few_steps")


def weight(message: Message) -> tuple[int, int]:
    """The round of a message and its bytes as it is serialized."""
    return round_of(message), serialized_bytes(message.content)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bytes_in_the_report_are_those_that_traveled(
    files: Files, tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the page can be made of it, which is all that the pictures are left out of."""
    monkeypatch.setattr(report, "draw_plots", lambda *_: None)
    monkeypatch.setattr(page, "draw_svg", lambda _: Drawn("", {}))
    everybody = {"privacy.sampling-rate": 1.0, "stage-one.sampling-rate": 1.0}  # so what is expected is what happens
    config = tiny_config(files, tmp_path, {**PRIVATE, **VARIANTS[variant], **everybody})
    grid = tiny_grid(config)
    folder = run_tiny(config, grid, plots=True)
    assert config.strategy.name in (folder.path / "report.html").read_text(encoding="utf-8")
    down, up = ([weight(m) for m in found if m.metadata.message_type == TRAIN] for found in (grid.sent, grid.answered))
    rows = [row for row in folder.read_metrics() if row["round"]]
    for row in rows:
        assert row["bytes_down"] == sum(size for number, size in down if number == row["round"])
        assert row["bytes_up"] == sum(size for number, size in up if number == row["round"])
    assert sum(row["cohort"] for row in rows) == len(down) == len(up) > 0
    claimed = json.loads((folder.path / "report.json").read_text())["communication"]
    first = [m for m in grid.sent + grid.answered if m.metadata.message_type != TRAIN]
    moved = sum(size for _, size in (*down, *up, *map(weight, first))) / CLIENTS
    assert claimed["per_client_run_as_released"]["both"] == pytest.approx(moved, rel=0.005)
    assert claimed["per_client_run"]["up"] == pytest.approx(
        sum(weight(m)[1] for m in grid.answered) / CLIENTS,
        rel=1e-9,
    )


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    config = tiny_config(files, tmp_path / "whole", {**PRIVATE, **VARIANTS[variant]})
    whole = run_tiny(config)
    config = RunConfig.parse(config.flat() | {"output.dir": str(tmp_path / "killed")})
    folder = killed_after(config, 2, monkeypatch)
    carried = codec_arrays(folder, config)
    for name in CARRIED.get(config.strategy.name, ()):
        assert any(key.startswith(name) and array.any() for key, array in carried.items()), "else it tests nothing"
    resumed(config, folder)
    assert torch.equal(final_adapter(folder), final_adapter(whole))
    assert Ledger(folder.ledger).charges == Ledger(whole.ledger).charges
    reports = [json.loads((each.path / "report.json").read_text()) for each in (folder, whole)]
    for key in ("outcome", "communication", "strategy"):
        one, other = ({name: untimed(value) for name, value in each[key].items()} for each in reports)
        assert one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name] and "seconds" not in name] == []


CARRIED = {"fedcg": ["decoder."]}
"""What the codec of a strategy must bring from the rounds before: beginnings of names of its state's arrays."""


def codec_arrays(folder: RunFolder, config: RunConfig) -> dict[str, torch.Tensor]:
    """What the last checkpoint keeps of the codec."""
    layout = load_adapted_model(config.model, config.lora, config.seed).layout
    state, _ = load_checkpoint(folder.checkpoint, config.server, layout)
    assert state.codec is not None
    return dict(state.codec.state().arrays)


def untimed(value: Any) -> Any:
    """A text without its times, which no two runs share."""
    return re.sub(r"[0-9.]+ m?s\b", "", value) if isinstance(value, str) else value


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "fedcg, private"])  # its stage 1 needs noise
def test_with_codes_zeroed_only_what_a_decoder_has_learnt_moves_the_model(
    files: Files, tmp_path: Path, variant: str, control: Control
) -> None:
    changes = {"num-server-rounds": 1, **VARIANTS[variant]}
    config = tiny_config(files, tmp_path, changes)
    folder = run_tiny(config, control=control)
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    learnt = recipe_of(config, adapted.layout).learned
    moved = not torch.equal(final_adapter(folder), adapted.initial)
    assert moved == (control == "none" or (control == "codes-zeroed" and learnt))
    assert json.loads((folder.path / "report.json").read_text())["run"]["control"] == control


@pytest.mark.parametrize(("key", "limit"), [("min-noise-multiplier", 9.0), ("max-clip-norm", 0.01)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_site_refuses_what_is_beyond_its_policy_whatever_the_strategy(
    make: Make, variant: str, key: str, limit: float
) -> None:
    """In stage 1 where there is one, else in the round; a limit on noise forbids anything in the clear, too."""
    strategy, grid = make({**NOISY, **VARIANTS[variant], "num-server-rounds": 1})
    for context in map(grid.context, grid.get_node_ids()):
        context.node_config[key] = limit
    with suppress(FederationError):  # nobody answered stage 1
        start(strategy, grid)
    said = [reply.error.reason if reply.has_error() else "" for reply in grid.answered]
    assert len(said) == CLIENTS
    in_the_clear = (strategy.config.strategy.name, strategy.config.stage_one.private) == ("fedcg", False)
    named = "allow-raw-gradients" if in_the_clear and key == "min-noise-multiplier" else f"{key} = {limit}"
    assert all("this site refuses" in reason and named in reason for reason in said)
