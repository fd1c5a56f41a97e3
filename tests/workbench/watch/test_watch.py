"""The page of ``dr-encoder watch``: to whom it tells, what it lets be done, and which run it shows."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.testclient import TestClient
from typer.testing import CliRunner

from server_app.results.folder import RunFolder
from workbench.cli.main import app
from workbench.watch.page import page
from workbench.watch.server import watcher
from workbench.watch.status import newest_run

TOKEN = "a-token"  # noqa: S105 - of a test


def client(folder: Path, host: str = "127.0.0.1:5000") -> TestClient:
    return TestClient(watcher(folder, TOKEN), base_url=f"http://{host}")


def report_address(asking: TestClient) -> str:
    told = asking.get("/status", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    return f"/{told['report']}?token={told['report_token']}"


@pytest.mark.parametrize(
    ("name", "line"),
    [("metrics.jsonl", '{"round": "x"}'), ("metrics.jsonl", "{}"), ("events.jsonl", '{"time": 1}')],
)
def test_files_that_tell_nothing_are_called_damaged(done: RunFolder, tmp_path: Path, name: str, line: str) -> None:
    run = RunFolder(shutil.copytree(done.path, tmp_path / "run"))
    (run.path / name).write_text(line + "\n", encoding="utf-8")
    answer = client(run.path).get("/status", headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, "damaged" in answer.json()["error"]) == (500, True)


def test_a_link_in_place_of_the_wish_to_stop_is_not_followed(done: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(done.path, tmp_path / "run"))
    run.stop.symlink_to(tmp_path / "elsewhere")
    with run.held():
        run.stop.symlink_to(tmp_path / "elsewhere")
        answer = client(run.path).post("/stop", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 409
    assert not (tmp_path / "elsewhere").exists()


def test_without_the_token_nothing_is_told_or_done(done: RunFolder) -> None:
    asking = client(done.path)
    for given in ({}, {"Authorization": "Bearer other"}, {"Authorization": ""}):
        assert asking.get("/status", headers=given).status_code == 403
        assert asking.post("/stop", headers=given).status_code == 403
    for address in ("/", "/?token=other", "/report.html", "/report.html?token=other"):
        refused = asking.get(address)
        assert refused.status_code == 403
        assert done.path.name not in refused.text
    assert asking.get(f"/?token={TOKEN}").status_code == 200
    assert asking.get(f"/report.html?token={TOKEN}").status_code == 403, "a page may tell its own address"
    assert asking.get(report_address(asking)).text == (done.path / "report.html").read_text(encoding="utf-8")
    own = report_address(asking).partition("=")[2]
    assert asking.get(f"/?token={own}").status_code == 403
    assert asking.post("/stop", headers={"Authorization": f"Bearer {own}"}).status_code == 403
    assert not done.stop.exists()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "0.0.0.0", "10.0.0.1"])  # noqa: S104 - a name that is refused
def test_another_name_for_this_machine_is_refused(done: RunFolder, host: str) -> None:
    asking = client(done.path, host)
    assert asking.get(f"/?token={TOKEN}").status_code == 400
    assert asking.get("/status", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 400


def test_other_origins_get_nothing(done: RunFolder) -> None:
    asking, own = client(done.path), {"Authorization": f"Bearer {TOKEN}"}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:6000"):
        for answer in (asking.get("/status", headers=own | {"Origin": origin}),
                       asking.post("/stop", headers=own | {"Origin": origin})):  # fmt: skip
            assert answer.status_code == 403
            assert not any(name.startswith("access-control-") for name in answer.headers)
    preflight = asking.options("/stop", headers={"Origin": "http://evil.example"})
    assert preflight.status_code == 405
    answer = asking.get("/status", headers=own | {"Origin": "http://127.0.0.1:5000"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


def test_only_a_post_stops_and_only_a_run_that_goes_on(done: RunFolder, tmp_path: Path) -> None:
    folder, own = RunFolder(shutil.copytree(done.path, tmp_path / "run")), {"Authorization": f"Bearer {TOKEN}"}
    asking = client(folder.path)
    assert asking.get("/stop", headers=own).status_code == 405
    assert asking.post("/stop", headers=own).status_code == 409
    assert not folder.stop.exists()
    with folder.held():
        assert asking.post("/stop", headers=own).json() == {"stop_asked": True}
        assert folder.stop.exists()
        assert asking.get("/status", headers=own).json()["stop_asked"]


def test_the_page_asks_this_server_only(done: RunFolder) -> None:
    answer = client(done.path).get(f"/?token={TOKEN}")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "://" not in page()
    assert TOKEN not in page()


def test_no_script_but_its_own_runs_in_the_report(done: RunFolder) -> None:
    """A folder from elsewhere may have any page of that name, and the address has the token."""
    asking = client(done.path)
    answer = asking.get(report_address(asking))
    told = answer.headers["content-security-policy"]
    (script,) = re.findall(r"script-src 'sha256-[^']+'", answer.text)
    assert script in told
    assert "unsafe-inline" not in told.replace("style-src 'unsafe-inline'", "")
    assert "default-src 'none'" in told
    assert "connect-src" not in told


def test_the_run_that_was_written_last_is_watched_and_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = CliRunner().invoke(app, ["watch"])
    assert (asked.exit_code, asked.output) == (1, "error: results: no run there; name the folder of one\n")
    for name in ("one", "two"):
        (tmp_path / "results" / name).mkdir(parents=True)
    (tmp_path / "results" / "two" / "events.jsonl").touch()
    (tmp_path / "results" / "latest").symlink_to("two")
    assert newest_run(Path("results")) == Path("results/two")
    asked = CliRunner().invoke(app, ["watch", "results/one"])
    assert asked.exit_code == 1
    assert "results/one: no events.jsonl there; give results/<run> of a run that has begun" in asked.output


def test_the_name_of_a_folder_from_elsewhere_commands_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn, "Config", lambda *_, **__: None)
    monkeypatch.setattr(uvicorn, "Server", lambda _: SimpleNamespace(run=lambda **_: None))
    folder = tmp_path / "a\x1b[2Jrun"
    folder.mkdir()
    (folder / "events.jsonl").touch()
    asked = CliRunner().invoke(app, ["watch", str(folder)])
    assert asked.exit_code == 0
    assert asked.output.startswith("a\\x1b[2Jrun: http://127.0.0.1:")
