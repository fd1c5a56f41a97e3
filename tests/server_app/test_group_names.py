"""A group of held-out rows may have any name: it stays one name with its own figures, and ends no run."""

import json
from pathlib import Path
from typing import Any
from unicodedata import category

import pytest

from server_app.results import facts
from server_app.results.charts import accuracy_chart
from server_app.results.folder import RunFolder
from server_app.results.page import markdown
from server_app.results.plots import draw_plots
from server_app.results.trackers import Sink, _Mlflow
from tests.support.mlflow_runs import of_mlflow
from tests.support.tiny import Files, run_tiny, tiny_config

NAMES = ("a.b", "x", "x_error", "../../etc", "", "a|b", "a\nb", "<i>", "$\\frac{$")


def scores() -> dict[str, Any]:
    parts = {f"{score}.{name}": 0.01 * place for score in ("loss", "accuracy") for place, name in enumerate(NAMES, 1)}
    return {"loss": 0.5, "loss_error": 0.25, "accuracy": 0.5, "accuracy_error": 0.125, **parts}


@pytest.fixture(scope="module")
def folder(files: Files, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_tiny(tiny_config(files, tmp_path_factory.mktemp("run"), {"num-server-rounds": 1}))


def report_of(folder: RunFolder) -> dict[str, Any]:
    """The report of a run, as if its rows had been of these groups."""
    report: dict[str, Any] = json.loads((folder.path / "report.json").read_text())
    report["outcome"] |= {"base": {"round": 0, **scores()}, "final": {"round": 1, **scores()}}
    report["outcome"]["examples"]["groups"] = dict.fromkeys(NAMES, 2)
    for key in ("released_model", "one_client_against_server"):
        report["privacy"][key]["epsilon"] = float(report["privacy"][key]["epsilon"])
    return report


def test_every_group_is_in_the_report_with_its_own_figure(folder: RunFolder) -> None:
    rows = {name: value for name, value, _ in facts.utility_table(report_of(folder)["outcome"])}
    assert rows["loss"] == "0.500 ± 0.250"
    assert [rows[f"loss, {name}"] for name in NAMES] == [f"0.0{place}0" for place in range(1, len(NAMES) + 1)]
    assert [rows[f"accuracy, {name}"] for name in NAMES] == [f"{place}.0%" for place in range(1, len(NAMES) + 1)]


def test_every_row_of_the_page_is_one_row(folder: RunFolder) -> None:
    page = markdown(report_of(folder))
    table = page.split("| | base model | after fine-tuning |")[1].split("\n\n")[0].strip().splitlines()
    assert len(table) == 1 + 2 * (1 + len(NAMES))
    assert all(row.replace(r"\|", "").count("|") == 4 for row in table)
    assert "<i>" not in page


def test_no_name_fetches_an_image(folder: RunFolder) -> None:
    report = report_of(folder)
    report["outcome"]["examples"]["groups"] = {"![seen](https://example.org/x.png)": 2, "other": 2}
    assert "seen" in markdown(report)
    assert "](http" not in markdown(report)


def test_no_name_commands_a_terminal(folder: RunFolder) -> None:
    report = report_of(folder)
    report["outcome"]["examples"]["groups"] = {"\x1b]0;title\x07\x9b2J": 2, "other": 2}
    assert "title" in markdown(report)
    assert not [sign for sign in markdown(report) if category(sign) == "Cc" and sign != "\n"]


def test_every_group_is_drawn_under_its_name(folder: RunFolder, tmp_path: Path) -> None:
    report, names = report_of(folder), ("$\\frac{$", "_x", "x_error", "x")
    row = {"accuracy": 0.5, "accuracy_error": 0.1} | {f"accuracy.{name}": 0.5 for name in names}
    chart = accuracy_chart([{"round": 0, **row}, {"round": 1, **row}], report["outcome"])
    assert chart is not None
    assert {series.label for series in chart.series} >= set(names)
    assert [bool(series.error) for series in chart.series[: 1 + len(names)]] == [True, *[False] * len(names)]
    draw_plots(tmp_path, [{**line, **row} for line in folder.read_metrics()], report)
    assert (tmp_path / "progress.png").stat().st_size > 5_000


@pytest.mark.parametrize("run", ["run", 'it\'s "one"'])
def test_mlflow_gets_every_group(tmp_path: Path, run: str) -> None:
    place = tmp_path / run
    for step in (0, 1):  # the second goes on with the run
        tracker = _Mlflow(place, f"sqlite:///{tmp_path / 'mlflow.db'}", {})
        Sink(tracker, public=False).write({"round": step, **scores()})
    found = of_mlflow(RunFolder(place))
    assert {name: points[-1] for name, points in found.items() if name.startswith("loss/")} == {
        "loss/_": (1, 0.05),
        "loss/.._.._etc": (1, 0.04),
        "loss/_i_": (1, 0.08),
        "loss/__frac__": (1, 0.09),
        "loss/a.b": (1, 0.01),
        "loss/a_b": (1, 0.07),
        "loss/a_b_2": (1, 0.06),
        "loss/x": (1, 0.02),
        "loss/x_error": (1, 0.03),
    }
    assert all([step for step, _ in points] == [0, 1] for points in found.values())
