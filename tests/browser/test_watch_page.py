"""``dr-encoder watch`` in a real browser, beside runs in processes of their own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from common.config import RunConfig
from server_app.results.folder import RunFolder
from tests.support.browsing import DESK, PHONE, opened
from tests.support.stopping_runs import child, until
from tests.support.tiny import Files, tiny_config

pytestmark = pytest.mark.browser
PATIENCE = 90_000  # ms: on a busy machine
SLOW: dict[str, Any] = {
    "privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0, "strategy.name": "lora", "num-server-rounds": 60,
    "server.divergence-factor": 1e9, "federation.wait-timeout": 5.0,
}  # fmt: skip


@contextmanager
def watching(folder: RunFolder) -> Iterator[str]:
    """The address that the command prints."""
    command = [sys.executable, "-m", "workbench.program", "watch", str(folder.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline() if process.stdout else "")
        assert found
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def test_a_run_is_followed_stopped_resumed_and_seen_killed(browser: Browser, files: Files, tmp_path: Path) -> None:
    config, folder = tiny_config(files, tmp_path, SLOW), RunFolder(tmp_path / "run")
    running = child(config, 0.05)
    try:
        until(lambda: len(folder.read_metrics()) > 1, "a round")
        with watching(folder) as address, opened(browser, address) as seen:
            page = seen.page
            expect(page.locator("#state")).to_have_text("running")
            expect(page.locator("#rounds")).to_have_text(re.compile(r"[1-9]\d* of 60"), timeout=PATIENCE)
            first = page.locator("#rounds").text_content() or ""
            expect(page.locator("#rounds")).not_to_have_text(first, timeout=PATIENCE)
            expect(page.locator("#sites")).to_contain_text("site-3")
            expect(page.locator("#sites")).to_contain_text("MemoryError: node has no memory left")
            expect(page.locator("#left")).to_have_text(re.compile(r"\d+:\d\d"))
            expect(page.locator("#promised")).to_contain_text("promised")
            assert page.locator("thead th:visible", has_text="loss").count() == 1
            assert page.locator("thead th:visible", has_text="clients' own").count() == 0, "nothing of it here"
            assert seen.accessible() == []

            page.get_by_role("button", name="Stop the run").click()
            page.get_by_role("button", name="Let it run").click()
            assert not folder.stop.exists()
            page.get_by_role("button", name="Stop the run").click()
            assert seen.accessible() == []
            page.get_by_role("button", name="Stop it").click()
            expect(page.locator("#state")).to_have_text("stopped", timeout=PATIENCE)
            expect(page.locator("#resume")).to_have_text(f"dr-encoder run --resume {folder.path}")
            expect(page.get_by_role("button", name="Stop the run")).to_be_disabled()
            assert running.wait(60) == 0

            done = len(folder.read_metrics())
            running = child(RunConfig.parse(config.flat() | {"resume": str(folder.path)}), 0.05)
            expect(page.locator("#state")).to_have_text("running", timeout=PATIENCE)
            until(lambda: len(folder.read_metrics()) > done, "a round more")
            running.send_signal(signal.SIGKILL)
            running.wait()
            expect(page.locator("#state")).to_have_text("killed", timeout=PATIENCE)
            expect(page.locator("#detail")).to_contain_text("ended without a word")
            expect(page.locator("#resume")).to_contain_text("--resume")
            assert seen.complaints == []
            assert {address.split("/")[2] for address in seen.requests if address.startswith("http")} == {
                address.split("/")[2]
            }
        rounds = [row["round"] for row in folder.read_metrics()]
        assert rounds == list(range(len(rounds)))
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(("width", "scheme"), [(DESK, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_it_can_be_read_on_a_phone_and_in_the_dark_and_says_when_it_is_cut_off(
    browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    (tmp_path / "events.jsonl").write_text('{"time": "2026-01-01T00:00:00.000+00:00", "event": "run_started"}\n')
    folder = RunFolder(tmp_path)
    with folder.held(), watching(folder) as address, opened(browser, address, width, scheme) as seen:
        expect(seen.page.locator("#state")).to_have_text("running")
        assert seen.accessible() == []
        assert not seen.too_wide()
        seen.page.route("**/status", lambda route: route.abort())
        expect(seen.page.get_by_role("alert")).to_be_visible(timeout=PATIENCE)
        assert seen.accessible() == []
