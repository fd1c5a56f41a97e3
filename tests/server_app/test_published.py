"""What a run publishes: nothing of where, when or with whom it ran."""

import getpass
import json
import re
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from peft import PeftModel

from common.config import RunConfig
from common.demo.model import load_model, load_tokenizer
from common.wire.records import TRAIN, round_of
from server_app.results import plots
from server_app.results.folder import PUBLISHED, RunFolder
from server_app.results.model_card import model_card
from server_app.results.published_names import public_name
from server_app.strategies.base import FederatedAdapter
from tests.support.file_modes import umask
from tests.support.grids import TinyGrid, faulty
from tests.support.html_text import page_text
from tests.support.tiny import Files, run_tiny, tiny_config, tiny_grid, write_files
from workbench.planning.sizing import to_json

pytestmark = pytest.mark.usefixtures("seeded")

ROOT = Path(__file__).parents[2]
NOISY: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 0.8,
    "privacy.sampling-rate": 0.7,
    "federation.min-reply-rate": 0.9,
    "federation.max-failed-rounds": 9,
}
_TIMES = re.compile(r"\b\d{4}-\d\d-\d\d\b|\b20\d{6}\b|\b\d{1,2}:\d\d\b|\b[\d.]+ ?(?:s|ms|min|h)\b|\bseconds?\b")


KEYS = ("code", "pre")
"""Elements of a page in which names of keys stand, such as federation.min-reply-rate."""


def save_model(folder: Path) -> Path:
    """The embedded model as somebody's local copy."""
    load_model().save_pretrained(folder)
    load_tokenizer().save_pretrained(folder)
    return folder


def published(folder: RunFolder) -> dict[str, bytes]:
    found = [file for name in PUBLISHED for file in [folder.path / name, *(folder.path / name).rglob("*")]]
    return {str(file.relative_to(folder.path)): file.read_bytes() for file in found if file.is_file()}


def run_at(place: Path, name: str, changes: Mapping[str, Any] | None = None) -> RunFolder:
    """A run with a local model and local data below ``place``; one client fails and one never answers."""
    place.mkdir(parents=True)
    model = save_model(place / "my-model")
    changes = {**NOISY, "model.name": str(model), "output.name": name, **(changes or {})}
    config = tiny_config(write_files(place), place / "results", changes)
    return run_tiny(config, faulty(tiny_grid(config), raising={1}, silent={2}), plots=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_at(tmp_path_factory.mktemp("run") / "jane-doe", "20261231-235959-dr-encoder")


@pytest.fixture(scope="module")
def demo(files: Files, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with umask(0):
        return run_tiny(tiny_config(files, tmp_path_factory.mktemp("demo"), NOISY), plots=True)


def test_no_published_file_tells_where_or_when_it_was_made(local: RunFolder) -> None:
    files = published(local)
    assert {"report.html", "report.md", "adapter/README.md", "adapter/adapter_config.json", "progress.png"} <= set(
        files
    )
    places = {str(local.path), local.path.name, str(local.path.parents[1]), str(Path.home()), str(Path.cwd())}
    host = socket.gethostname()
    names = {f"/{getpass.getuser()}", "jane-doe", *([] if host.isalpha() else [host])}  # a word is no host's alone
    for name, content in files.items():
        is_text = name.endswith((".md", ".json", ".html"))
        for told in (*places, *(names if is_text else ())):
            assert told.encode() not in content, f"{name} tells {told}"
        if is_text:
            said = page_text(content.decode()) if name.endswith(".html") else content.decode()
            plain = page_text(content.decode(), without=KEYS) if name.endswith(".html") else said
            assert not _TIMES.findall(plain), name
            assert not re.search(r"(^|[\s\"'(`])[/~]\w", said), f"{name} has a path"


def test_no_published_file_counts_who_was_asked_or_answered(local: RunFolder) -> None:
    rows, text = local.read_metrics()[1:], (local.path / "report.md").read_text(encoding="utf-8")
    text += (local.adapter / "README.md").read_text(encoding="utf-8")
    text += page_text(
        (local.path / "report.html").read_text(encoding="utf-8"), without=("code", "pre")
    )  # names of keys
    assert {row["replies"] for row in rows} != {row["cohort"] for row in rows}, "the run tells nothing otherwise"
    totals = {sum(row[key] for row in rows) for key in ("bytes_up", "bytes_down")}
    totals |= {row[key] for row in rows for key in ("bytes_up", "bytes_down") if row["cohort"] > 1}
    spoken = {int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*\b", text)}
    assert not {total for total in totals if total} & spoken
    assert not re.search(r"\brepl(y|ies)\b|\bshort\b|\bfailed\b", text)


def test_the_same_run_elsewhere_later_and_with_others_publishes_the_same_bytes(
    local: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another place, name, clock and user, and other figures of who took part: not one byte differs."""
    read, clock = RunFolder.read_metrics, time.monotonic

    def others(self: RunFolder) -> list[dict[str, Any]]:
        rows = read(self)
        for row in rows[1:]:
            up, down = (row[f"bytes_{way}"] // max(1, row[of]) for way, of in (("up", "answered"), ("down", "asked")))
            row |= {name: row[name] + 1 for name in ("cohort", "replies", "asked", "answered")}
            row["bytes_up"], row["bytes_down"] = up * row["answered"], down * row["asked"]
            row |= {"seconds": 77.0, "elapsed": 777.0, "failures": 3, "shortage": "", "failure": "none"}
        return rows

    monkeypatch.setattr(RunFolder, "read_metrics", others)
    monkeypatch.setattr(time, "monotonic", lambda: 7 * clock())
    for name in ("HOME", "USER", "HOSTNAME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    elsewhere, here = published(run_at(tmp_path / "elsewhere", "other")), published(local)
    assert set(elsewhere) == set(here)
    assert [name for name in here if here[name] != elsewhere[name]] == []


@pytest.mark.parametrize("strategy", ["lora", "fedlpp"])
def test_no_published_figure_of_bytes_tells_whether_or_when_anybody_was_asked(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Of a run in which nobody was, "nan B" was published; of others, the bytes of the first round with an answer."""
    told = []
    for first in (1, 3, 9):
        monkeypatch.setattr(
            FederatedAdapter, "draw_cohort", lambda self, draw, *_, first=first: self.nodes[:1] if draw >= first else []
        )
        config = tiny_config(files, tmp_path / str(first), {**NOISY, "strategy.name": strategy})
        folder = run_tiny(config, plots=True)
        lines = (folder.path / "report.md").read_text(encoding="utf-8").partition("## Bytes")[2]
        told.append((lines, (folder.path / "bytes.png").read_bytes()))
    assert "nan" not in told[0][0]
    assert told[0] == told[1] == told[2]


class LosingGrid(TinyGrid):
    """Half of the nodes fail in some rounds."""

    lost: frozenset[int] = frozenset()

    def _reply(self, message: Message) -> Message | None:
        fails = message.metadata.message_type == TRAIN and round_of(message) in self.lost
        if not fails or message.metadata.dst_node_id % 2:
            return super()._reply(message)
        error: Any = Error(0, "OSError: its disk is full")
        return Message(error, reply_to=message)


def test_no_published_figure_of_bytes_tells_how_many_rounds_were_lost(files: Files, tmp_path: Path) -> None:
    """Under secure aggregation a lost round has no sum, which the report left out: 2,987 B for the plan's 3,091 B."""
    secure = {"privacy.trust": "secure", "privacy.sampling-rate": 1.0, "strategy.name": "random-projection"}
    told, measured = [], []
    for lost in ((), (1,), (2, 3)):
        config = tiny_config(files, tmp_path / f"{len(lost)}", {**NOISY, **secure})
        grid = tiny_grid(config, LosingGrid)
        grid.lost = frozenset(lost)
        folder = run_tiny(config, grid, plots=True)
        assert [row["round"] for row in folder.read_metrics() if row.get("shortage")] == [*lost]
        bytes_of = (folder.path / "report.md").read_text(encoding="utf-8").partition("## Bytes")[2]
        page = page_text((folder.path / "report.html").read_text(encoding="utf-8"))
        sizes = re.findall(r"[\d.,]+ [kMG]?B\b", page)
        told.append((bytes_of, sizes, (folder.path / "bytes.png").read_bytes()))
        wire = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))["communication"]
        assert wire["per_client_run"] == json.loads(to_json(config))["per_client_run"]
        measured.append(wire["per_client_run_as_released"]["down"])
    assert told[0][1], "else it compares nothing"
    assert told[0] == told[1] == told[2]
    assert measured[0] > max(measured[1:]), "which the server's own file tells"


@pytest.mark.parametrize("trust", ["central", "local", "distributed"])
def test_no_plot_tells_a_time_or_a_place(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: str
) -> None:
    """Text in a picture is no text in its file, so it is read where it is drawn."""
    drawn: list[str] = []

    def save(figure: Figure, path: Path) -> None:
        drawn.extend(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
        drawn.append(path.name)

    monkeypatch.setattr(plots, "_save", save)
    monkeypatch.setattr(RunFolder, "publish", lambda *_: None)
    folder = run_tiny(tiny_config(files, tmp_path, {**NOISY, "privacy.trust": trust}), plots=True)
    said = "\n".join(drawn)
    assert "held-out loss" in said
    assert not _TIMES.findall(said)
    assert str(folder.path.parent) not in said


def test_every_strategy_s_own_sentence_is_free_of_times(files: Files, tmp_path: Path) -> None:
    folder = run_tiny(tiny_config(files, tmp_path, {**NOISY, "strategy.name": "fedlpp"}), plots=True)
    page = (folder.path / "report.md").read_text(encoding="utf-8")
    assert "Strategy: the clients' 2-bit proxy" in page
    assert not _TIMES.findall(page)


def test_the_page_of_results_has_the_same_split(demo: RunFolder) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \| (published|server) \|", page, re.MULTILINE)
    split = {name.strip("`/"): whom for names, whom in rows for name in names.split(", ")}
    assert {name for name, whom in split.items() if whom == "published"} == set(PUBLISHED)
    assert {path.name for path in demo.path.iterdir()} <= set(split)


def loading_code(folder: RunFolder) -> str:
    found = re.search(r"```python\n(.*?)```", (folder.adapter / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def check_loaded(code: str, folder: RunFolder) -> None:
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - what a reader of the card copies
    ids = load_tokenizer()(["question : what is the sum of 2 and 3 ? answer :"], return_tensors="pt")
    with torch.no_grad():
        loaded = names["model"].eval()(**ids).logits
        expected = PeftModel.from_pretrained(load_model(), folder.adapter).eval()(**ids).logits
        untouched = load_model().eval()(**ids).logits
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-6)
    assert (loaded - untouched).abs().max() > 1e-3


def test_the_card_of_the_demo_loads_the_adapter(demo: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo.path)
    check_loaded(loading_code(demo), demo)


def test_the_card_of_a_local_model_loads_the_adapter(
    local: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(local.adapter, tmp_path / "adapter")
    save_model(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    assert "# your copy of it" in loading_code(local)
    check_loaded(loading_code(local), local)


def test_the_card_says_what_the_epsilon_is_and_is_not(demo: RunFolder, files: Files, tmp_path: Path) -> None:
    secret = {**NOISY, "privacy.colluders": 1}
    folder = run_tiny(tiny_config(files, tmp_path, secret), plots=True)
    text = (folder.adapter / "README.md").read_text(encoding="utf-8")
    for said in (
        "at δ = 0.001", "one client with all its examples", "zero-out", "dp_accounting PLD", "cohorts stay secret",
        "at most 1 (`privacy.colluders`)", "distributed (`privacy.trust`)", "ε of one client against the server",
        "does not cover", "rank 2, alpha 4", "| rounds | 3 of 3 |", "dr-encoder, codec linear with 64 values",
    ):  # fmt: skip
        assert said in text, said


def test_the_card_of_a_run_that_ended_early_says_why_and_which_adapter_it_is(demo: RunFolder) -> None:
    report = json.loads((demo.path / "report.json").read_text(encoding="utf-8"))
    report["privacy"] = finite(report["privacy"])
    config = RunConfig()
    assert "| rounds | 3 of 3 |" in model_card(config.model, config.lora, report)
    why = "diverged: validation loss 8.02 above 5.17; the adapter of the base model is kept"
    early = {**report, "outcome": {**report["outcome"], "stopped_because": why}}
    assert f"| rounds | 3 of 3; ended because: {why} |" in model_card(config.model, config.lora, early)


def test_the_card_s_head_is_one_that_hubs_read(demo: RunFolder, local: RunFolder) -> None:
    for folder in (demo, local):
        head = ModelCard.load(folder.adapter / "README.md").data
        assert (head.license, head.library_name, head.pipeline_tag) == ("unknown", "peft", "text-generation")
        assert head.base_model is None, "the hub has no such model"
        assert {"lora", "federated-learning", "differential-privacy"} <= set(head.tags)
        assert head.datasets is None
    report = json.loads((demo.path / "report.json").read_text(encoding="utf-8"))
    hub = RunConfig.parse({"model.name": "some-org/some-model", "data.name": "x.jsonl", "data.task": "elicitation"})
    text = model_card(hub.model, hub.lora, {**report, "privacy": finite(report["privacy"])})
    head = ModelCard(text).data
    assert head.base_model == "some-org/some-model"
    assert "base_model:adapter:some-org/some-model" in head.tags
    assert 'from_pretrained("some-org/some-model")\n' in text


def finite(privacy: dict[str, Any]) -> dict[str, Any]:
    figures = ("released_model", "one_client_against_server")
    return privacy | {name: privacy[name] | {"epsilon": 2.0} for name in figures}


def test_names_of_models_keep_the_hub_s_and_lose_the_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for name, public in {
        "demo": "demo", "gpt2": "gpt2", "some-org/some-model": "some-org/some-model",
        "/home/a/models/Llama-3": "Llama-3", "~/models/Llama-3/": "Llama-3", "./x": "x", "..": "local", "/": "local",
        "models/mine": "mine", "a/b/c": "c", "site-17.jsonl": "site-17.jsonl", str(tmp_path): tmp_path.name,
    }.items():  # fmt: skip
        assert public_name(name) == public
