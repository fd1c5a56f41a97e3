"""What ``dr-encoder run`` refuses by itself, before Flower is started."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

from common.config import RunConfig
from tests.support.layouts import write_model
from workbench.cli import main as cli
from workbench.planning import local_model
from workbench.simulation import inline

runner = CliRunner()
ROWS = [{"prompt": f"p{i}", "completion": f"c{i}", "group": f"g{i % 3}"} for i in range(6)]
HELD_OUT = [{"prompt": "p0", "completion": "another answer"}, {"prompt": "p9", "completion": "c0"}]


def invoke(folder: Path, *changes: str) -> tuple[int, str]:
    """Exit status and output of a run with changed keys."""
    options = [part for change in (f"output.dir={folder}/results", *changes) for part in ("--set", change)]
    result = runner.invoke(cli.app, ["run", *options])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def rows_file(folder: Path, rows: list[dict[str, str]], name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(folder: Path, *changes: str) -> str:
    """The message of a run that is refused; nothing is left behind."""
    code, output = invoke(folder, *changes)
    assert code == 1
    assert output.startswith("error: ")
    assert not (folder / "results").exists()
    return output


@pytest.mark.usefixtures("_no_launch")
def test_too_many_colluders_are_refused_before_the_model_and_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "check_model", lambda *_: pytest.fail("the model was looked at"))
    assert "must be below the 163 noise shares of a round" in refused(tmp_path, "privacy.colluders=163")


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["strategy.name=dr-encodr"], 'strategy.name = "dr-encodr": registered are dr-encoder'),
        (["privacy.delta=0.001"], "privacy.delta = 0.001: delta = 0.001 must be positive and below 1/M = 0.001"),
        (["privacy.delta=0.2", "federation.num-clients=0"], "below 1/M = 0.1 for M = 10 clients"),
        (["model.device=banana"], 'model.device = "banana": not a device'),
        (["model.device=mps"], 'model.device = "mps": not a device'),
        (["model.device=meta"], 'model.device = "meta": not a device'),
        (["data.name=absent.jsonl"], 'data.name = "absent.jsonl": no such file or directory'),
        (["data.name=absent.tsv"], 'data.name = "absent.tsv": no such file or directory'),
        (["data.name=absent.jsonl.gz"], 'data.name = "absent.jsonl.gz": no such file or directory'),
        (["data.evaluation=absent.ndjson.xz"], "absent.ndjson.xz"),
        (["data.name=./absent"], 'data.name = "./absent": no such file or directory'),
        (["data.name=/nope/absent"], 'data.name = "/nope/absent": no such file or directory'),
        (["data.evaluation=absent.csv"], "absent.csv"),
    ],
)
def test_what_cannot_run_is_refused_at_once(tmp_path: Path, changes: list[str], message: str) -> None:
    assert message in refused(tmp_path, *changes)


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize(("device", "found"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_cuda_device_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, found: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    message = f'model.device = "{device}": CUDA devices on this machine: {found}'
    assert message in refused(tmp_path, f"model.device={device}")


def without(folder: Path, *patterns: str) -> Path:
    """A model directory that lacks some files."""
    write_model("gpt2", folder)
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        path.unlink()
    return folder


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize(
    ("missing", "changes", "message"),
    [
        (["config.json"], [], "no config.json there"),
        (["tokenizer*"], [], "no tokenizer there"),
        (["*.safetensors"], ["lora.target-modules=c_attn,q_proj"], "no module is called q_proj"),
        (["*.safetensors"], ["data.max-length=65"], "data.max-length = 65"),
    ],
)
def test_an_unusable_model_directory_is_refused_at_once(
    tmp_path: Path, missing: list[str], changes: list[str], message: str
) -> None:
    """Without weights where they are not what is missing: none are read."""
    name = without(tmp_path / "model", *missing)
    output = refused(tmp_path, f"model.name={name}", "data.max-length=64", *changes)
    assert message in output
    assert str(name) in output or "lora.target-modules" in output


@pytest.mark.usefixtures("_no_launch")
def test_a_model_directory_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    assert 'model.name = "./absent": no such directory' in refused(tmp_path, "model.name=./absent")


@pytest.mark.parametrize(
    ("name", "options", "warned"),
    [("own", [], True), ("own", ["--gpus-per-client", "0.5"], False), ("demo", [], False)],
)
def test_a_gpu_that_no_client_was_given_is_pointed_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launched: list[RunConfig],
    name: str,
    options: list[str],
    warned: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    model = "demo" if name == "demo" else str(write_model("gpt2", tmp_path / name))
    changes = [f"output.dir={tmp_path}", f"model.name={model}", "model.device=cpu", "data.max-length=64"]
    settings = [part for change in changes for part in ("--set", change)]
    result = runner.invoke(cli.app, ["run", *settings, *options])
    assert len(launched) == 1, result.output
    assert ("warning: --gpus-per-client is 0" in result.output) == warned


@pytest.mark.usefixtures("_no_launch")
def test_a_share_of_a_gpu_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would wait for it without end."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = runner.invoke(cli.app, ["run", "--set", f"output.dir={tmp_path}", "--gpus-per-client", "0.5"])
    assert (result.exit_code, "CUDA devices on this machine: 0" in result.output) == (1, True)


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["federation.num-clients=4", "privacy.colluders=4", "privacy.delta=0"], "below the 4 noise shares of a round"),
        (
            [
                "federation.num-clients=2000000",
                "data.examples-per-client=1",
                "privacy.delta=0",
                "privacy.sampling-rate=1",
            ],
            "federation.num-clients = 2,000,000: a cohort",
        ),
        (["federation.num-clients=1000000", "privacy.delta=0"], "12,000,000 of the demo's examples would be drawn"),
        (["privacy.delta=1e-30"], "delta = 1e-30 is below 1e-10: no epsilon is claimed there"),
        (["model.device-map=balanced", "model.name={}"], "spreads layers over several GPUs, this process sees 0"),
    ],
)
def test_a_run_that_its_plan_or_its_devices_forbid_is_refused_at_once(
    tmp_path: Path, changes: list[str], message: str
) -> None:
    named = [change.replace("{}", str(tmp_path / "model")) for change in changes]
    if named != changes:
        write_model("gpt2", tmp_path / "model")
    assert message in refused(tmp_path, *named)


@pytest.mark.usefixtures("_no_launch")
def test_a_column_of_groups_that_is_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    own = rows_file(tmp_path, ROWS)
    changes = [f"data.name={own}", "data.partitioner=iid", "federation.num-clients=3", "privacy.delta=0"]
    said = refused(tmp_path, *changes, "data.group-column=hospital")
    assert f'data.group-column = "hospital": not a column of "{own}"; leave it out where nothing is grouped' in said


@pytest.mark.usefixtures("_no_launch")
def test_a_hub_model_that_cannot_be_had_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the model hub cannot be reached" in refused(tmp_path, "model.name=somebody/something")


def test_runs_of_one_second_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: list[RunConfig]
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "20260101-000000-dr-encoder.flower.log").touch()  # as a run of the same second has it
    assert invoke(tmp_path)[0] == 130
    assert launched[0].output.name == "20260101-000000-dr-encoder-2"


def test_runs_whose_logs_are_gone_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: list[RunConfig]
) -> None:
    """An inline run has no log of Flower's: one of the same second took its name, and was refused by its folder."""
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    (tmp_path / "results" / "20260101-000000-dr-encoder").mkdir(parents=True)
    assert invoke(tmp_path)[0] == 130
    assert launched[0].output.name == "20260101-000000-dr-encoder-2"


def test_an_inline_run_keeps_its_name_until_its_folder_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs: list[list[Path]] = []
    monkeypatch.setattr(inline, "run_inline", lambda *_: logs.append(list((tmp_path / "results").glob("*.flower.log"))))
    runner.invoke(cli.app, ["run", "--engine", "inline", "--set", f"output.dir={tmp_path / 'results'}"])
    assert [len(found) for found in logs] == [1]
    assert not list((tmp_path / "results").glob("*.flower.log"))


@pytest.mark.usefixtures("_no_launch")
def test_columns_that_the_demo_has_not_are_refused_at_once(tmp_path: Path) -> None:
    """Its rows were asked for them, in ``run``, ``plan`` and ``check-site``, or by each client of a charged round."""
    held_out = rows_file(tmp_path, [{"ask": "a", "answer": "b"}])
    changes = [f"data.evaluation={held_out}", "data.prompt-column=ask", "data.completion-column=answer"]
    assert 'data.prompt-column = "ask" with data.name = "demo"' in refused(tmp_path, *changes)
    assert 'data.format = "text" with data.name = "demo"' in refused(
        tmp_path, f"data.evaluation={rows_file(tmp_path, [{'text': 'a b c'}])}", "data.format=text"
    )
    preset = tmp_path / "own.toml"
    preset.write_text('[data]\ncompletion-column = "answer"\n')
    for command in ("run", "plan"):
        result = runner.invoke(cli.app, [command, "--preset", str(preset)])
        assert (result.exit_code, result.exception is None or isinstance(result.exception, SystemExit)) == (1, True)
        assert 'data.completion-column = "answer" with data.name = "demo"' in result.output


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize("key", ["data.name", "data.evaluation"])
@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("{broken\n", "could not be read"), ('{"prompt": "a", "answer": "b"}\n', "data.completion-column")],
)
def test_an_unusable_file_is_refused_at_once(tmp_path: Path, key: str, text: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(text)
    output = refused(tmp_path, f"{key}={path}")
    assert str(path) in output
    assert message in output


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.partitioner=iid", "federation.num-clients=7"], "has 6 examples for 7 clients"),
        (["data.partitioner=dirichlet", "federation.num-clients=7"], "has 6 examples for 7 clients"),
        (["data.partitioner=natural", "federation.num-clients=2"], "3 partitions"),
        (["data.group-column=topic", "federation.num-clients=2"], 'data.group-column = "topic"'),
    ],
)
def test_data_that_cannot_be_shared_out_are_refused_at_once(tmp_path: Path, changes: list[str], message: str) -> None:
    assert message in refused(tmp_path, f"data.name={rows_file(tmp_path, ROWS)}", "privacy.delta=0", *changes)


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt":"Straße","completion":"b"}\n'.encode("latin-1"), "is not UTF-8"),
        (b'{"prompt":"a","completion":"b","choices":["c"]}\n', "not one of its choices"),
        (b'{"prompt":"a","completion":"b","group":null}\n' * 2, 'data.group-column = "group"'),
    ],
    ids=["latin-1", "choices", "no group"],
)
def test_odd_data_are_refused_in_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(text)
    assert message in refused(tmp_path, f"data.name={path}", "federation.num-clients=2", "privacy.delta=0")


@pytest.mark.usefixtures("_no_launch")
def test_held_out_examples_that_clients_hold_are_refused_at_once(tmp_path: Path) -> None:
    own, held_out = rows_file(tmp_path, ROWS), rows_file(tmp_path, [*HELD_OUT, ROWS[3]], "held-out.jsonl")
    changes = [f"data.name={own}", f"data.evaluation={held_out}", "federation.num-clients=3", "privacy.delta=0"]
    assert "1 of its 3 examples are among those that the clients train on" in refused(tmp_path, *changes)


@pytest.mark.parametrize("partitioner", ["iid", "dirichlet", "natural"])
def test_good_data_pass(tmp_path: Path, launched: list[RunConfig], partitioner: str) -> None:
    own, held_out = rows_file(tmp_path, ROWS), rows_file(tmp_path, HELD_OUT, "held-out.jsonl")
    changes = [f"data.name={own}", f"data.evaluation={held_out}", f"data.partitioner={partitioner}"]
    code, output = invoke(tmp_path, *changes, "federation.num-clients=3", "model.device=cpu")
    assert (code, len(launched)) == (130, 1), output


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize("key", ["name", "evaluation", "validation"])
def test_a_hub_data_set_that_cannot_be_had_is_refused_before_anything_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Every client would answer with this, round after round."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refused(tmp_path, f"data.{key}=somebody/something", "model.device=cpu")
    assert f'data.{key} = "somebody/something": could not be read as' in said


def test_a_folder_called_demo_does_not_hide_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: list[RunConfig]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert invoke(tmp_path)[0] == 130
    assert (launched[0].data.name, launched[0].model.name) == ("demo", "demo")


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize("content", [b"[privacy\nepsilon = 2", b"\xff\xfe"])
def test_a_malformed_preset_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    result = runner.invoke(cli.app, ["run", "--preset", str(path)])
    assert result.exit_code == 1
    assert result.output.startswith(f'error: preset "{path}": {path} is not a readable TOML file: ')
    assert result.output.count("\n") == 1


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = "import sys, workbench.cli.main; sys.exit(bool({'torch', 'flwr', 'scipy', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize("key", ["data.name", "data.evaluation"])
@pytest.mark.parametrize("name", ["own.jsonl", "own.csv"])
def test_a_file_in_latin_1_is_told_of_by_name(tmp_path: Path, key: str, name: str) -> None:
    path = tmp_path / name
    rows = ['{"prompt": "a", "completion": "grün"}'] if name.endswith("jsonl") else ["prompt,completion", "a,grün"]
    path.write_bytes("\n".join([*rows, ""]).encode("latin-1"))
    output = refused(tmp_path, f"{key}={path}", "federation.num-clients=1", "privacy.delta=0")
    assert str(path) in output
    assert "is not UTF-8" in output
