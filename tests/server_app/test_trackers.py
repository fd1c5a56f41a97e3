"""``output.tracker``: what the tools themselves read is what the metrics say, and no more than may leave the server."""

import math
import re
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from common.config import ConfigError
from server_app.results import trackers
from server_app.results.folder import RunFolder
from server_app.results.trackers import PUBLIC, Sink, _TensorBoard, open_sink
from server_app.run import check_run
from tests.support.killed_runs import killed_after, resumed
from tests.support.mlflow_runs import Shown, of_mlflow
from tests.support.tiny import Files, run_tiny, tiny_config

NOISY: dict[str, Any] = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0, "server.divergence-factor": 1e9}
PRIVATE = {"cohort", "replies", "failures", "asked", "answered", "bytes_up", "bytes_down", "seconds", "elapsed"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for an address outside of this machine fails the test."""
    found = socket.getaddrinfo

    def only_here(host: Any, *more: Any, **options: Any) -> Any:
        assert host in {None, "localhost", "127.0.0.1", "::1", ""}, f"{host} was asked for"
        return found(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def of_tensorboard(folder: RunFolder) -> Shown:
    reader = EventAccumulator(str(folder.path / "tensorboard"))
    reader.Reload()
    return {tag: [(item.step, item.value) for item in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def records(folder: RunFolder) -> Iterator[wandb_internal_pb2.Record]:
    """Everything that ``wandb sync`` would send."""
    for path in sorted(folder.path.glob("wandb/offline-run-*/run-*.wandb")):
        for data in chunks(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield record


def chunks(content: bytes, block: int = 1 << 15) -> Iterator[bytes]:
    """The records of LevelDB's log format, in which wandb writes: checksum, length and kind before each piece."""
    place, held = 7, b""  # behind wandb's own head
    while place + 7 <= len(content):
        if block - place % block < 7:  # too little of a block for a head
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        held += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last piece
            yield held
            held = b""


def of_wandb(folder: RunFolder) -> Shown:
    found: Shown = {}
    for record in records(folder):
        row = {item.key or "/".join(item.nested_key): float(item.value_json) for item in record.history.item}
        for key in row.keys() - {"_step", "_timestamp", "_runtime"}:
            found.setdefault(key, []).append((int(row["_step"]), row[key]))
    return found


READERS = {"tensorboard": of_tensorboard, "mlflow": of_mlflow, "wandb": of_wandb}


@pytest.fixture(scope="module")
def told(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """A run for each tracker."""
    return {
        name: run_tiny(tiny_config(files, tmp_path_factory.mktemp(name), NOISY | {"output.tracker": name}))
        for name in READERS
    }


@pytest.mark.parametrize("name", READERS)
def test_every_figure_is_there_under_its_round(told: dict[str, RunFolder], name: str) -> None:
    found, rows = READERS[name](told[name]), told[name].read_metrics()
    assert set(found) >= {"loss", "accuracy", "epsilon", "loss_error"}
    for key, points in found.items():
        held = [(row["round"], row[key.replace("/", ".")]) for row in rows if key.replace("/", ".") in row]
        assert [step for step, _ in points] == [step for step, _ in held], key
        assert [value for _, value in points] == pytest.approx([value for _, value in held], rel=1e-6), key
    assert [step for step, _ in found["loss"]] == [0, 1, 2, 3]
    assert [step for step, _ in found["epsilon"]] == [1, 2, 3]
    assert any(key.startswith("loss/") for key in found)


def test_who_took_part_stays_on_the_server(
    told: dict[str, RunFolder], files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorboard", "mlflow"):
        assert set(READERS[name](told[name])) >= PRIVATE
    assert not PRIVATE & set(of_wandb(told["wandb"]))
    elsewhere = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    folder = run_tiny(tiny_config(files, tmp_path, NOISY | {"output.tracker": "mlflow"}))
    found = of_mlflow(folder)
    assert {key.partition("/")[0].removesuffix("_error") for key in found} <= set(PUBLIC)
    assert {"loss", "epsilon", "accuracy"} <= set(found)


def test_settings_go_along_without_a_place(told: dict[str, RunFolder]) -> None:
    client = MlflowClient(f"sqlite:///{told['mlflow'].path.parent / 'mlflow.db'}")
    params = client.search_runs([client.get_experiment_by_name("dr-encoder").experiment_id])[0].data.params
    assert params["codec.size"] == "64"
    assert params["data.name"] == "private.jsonl"
    assert "output.dir" not in params
    told_to_wandb = "".join(str(record) for record in records(told["wandb"]))
    assert "codec.size" in told_to_wandb
    for secret in (str(told["wandb"].path.parent), str(Path.home()), str(Path.cwd()), "pytest"):
        assert secret not in told_to_wandb, secret
    host = re.escape(socket.gethostname())  # a word by itself: ids are random, and a machine's name may be two letters
    assert not re.search(rf"(?<![A-Za-z0-9]){host}(?![A-Za-z0-9])", told_to_wandb)


@pytest.mark.parametrize("name", READERS)
def test_only_the_server_s_user_reads_it(told: dict[str, RunFolder], name: str) -> None:
    folder = told[name].path
    places = [folder.parent / "mlflow.db"] if name == "mlflow" else [*(folder / name).rglob("*"), folder / name]
    assert places
    for place in places:
        if not place.is_symlink():
            assert stat.S_IMODE(place.stat().st_mode) in {0o600, 0o700}, place


def test_a_database_that_was_open_to_others_is_closed_before_a_run_writes_into_it(files: Files, tmp_path: Path) -> None:
    """``mlflow ui`` makes it where it looks first, as any file is made; the folder may be open to others, too."""
    database = tmp_path / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    database.chmod(0o644)
    config = tiny_config(files, tmp_path, {"strategy.name": "lora", "data.evaluation": "", "output.tracker": "mlflow"})
    run_tiny(config)
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    (tmp_path / "also.db").hardlink_to(database)
    with pytest.raises(ConfigError, match=r'^output.tracker = "mlflow": .*mlflow.db is no file of this user alone'):
        check_run(tiny_config(files, tmp_path, {"output.tracker": "mlflow", "output.name": "next"}))


def test_nothing_is_written_unless_it_is_asked_for(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, {"strategy.name": "lora", "data.evaluation": ""})
    folder = run_tiny(config)
    assert open_sink(config.output.tracker, folder.path, {}, 1) is None
    assert not {"tensorboard", "wandb"} & {path.name for path in folder.path.iterdir()}
    assert not (tmp_path / "mlflow.db").exists()


def test_of_a_round_that_was_run_twice_tensorboard_shows_the_last_account(tmp_path: Path) -> None:
    """A server that dies between a round's metrics and its checkpoint runs the round again when it is resumed."""
    folder = RunFolder(tmp_path)
    for first, loss in ((1, 5.0), (2, 3.0)):
        writer = Sink(_TensorBoard(tmp_path / "tensorboard", first), public=False)
        for number in range(first, 4):
            writer.write({"round": number, "loss": loss})
        writer.close()
    assert of_tensorboard(folder)["loss"] == [(1, 5.0), (2, 3.0), (3, 3.0)]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_resumed_run_goes_on_under_its_name(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = tiny_config(files, tmp_path, NOISY | {"output.tracker": name})
    folder = killed_after(config, 1, monkeypatch)
    found = READERS[name](resumed(config, folder))
    assert {step for step, _ in found["loss"]} >= {2, 3}
    if name == "wandb":
        assert {record.run.run_id for record in records(folder) if record.run.run_id} == {"run"}


def test_what_is_no_finite_number_is_left_out(tmp_path: Path) -> None:
    writer = Sink(_TensorBoard(tmp_path / "tensorboard", 1), public=False)
    writer.write({"round": 1, "epsilon": "inf", "loss": math.nan, "shortage": "", "replies": 0})
    assert of_tensorboard(RunFolder(tmp_path)) == {"replies": [(1, 0.0)]}, "on disk without a close"


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow-skinny")]
)
def test_without_the_package_the_run_is_refused_before_it_starts(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf'output\.tracker = "{name}": the package {package} is not installed'):
        check_run(tiny_config(files, tmp_path, {"output.tracker": name}))
    check_run(tiny_config(files, tmp_path))
    assert not RunFolder(tmp_path / "run").path.exists()
