"""``report.html`` in a real browser: it opens, tells its values, asks nobody, and can be read by all."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browsing import DESK, PHONE, opened
from tests.support.html_text import page_text
from tests.support.tiny import Files, run_tiny, tiny_config

pytestmark = pytest.mark.browser
NOISY: dict[str, Any] = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 0.8, "server.divergence-factor": 1e9}
WIDTHS = [(DESK, "light"), (DESK, "dark"), (PHONE, "light"), (PHONE, "dark")]


@pytest.fixture(scope="module")
def report(browser: Browser, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run, away from everything else of its folder."""
    folder = run_tiny(tiny_config(files, tmp_path_factory.mktemp("report"), NOISY), plots=True)
    alone = tmp_path_factory.mktemp("mail") / "report.html"
    alone.write_bytes((folder.path / "report.html").read_bytes())
    return alone


@pytest.mark.parametrize(("width", "scheme"), WIDTHS)
def test_it_opens_without_a_complaint_or_a_request_and_passes_axe(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    with opened(browser, report.as_uri(), width, scheme) as seen:
        assert seen.page.locator("figure svg").count() == 4
        for details in seen.page.locator("details").all():
            details.evaluate("node => { node.open = true; }")
        assert seen.accessible() == []
        assert not seen.too_wide()
        assert seen.complaints == []
        assert [address for address in seen.requests if not address.startswith("data:")] == [report.as_uri()]


def test_what_the_policy_forbids_is_not_asked_for(browser: Browser, report: Path) -> None:
    with opened(browser, report.as_uri()) as seen:
        seen.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => {})")
        assert any("Content Security Policy" in said for said in seen.complaints)


def test_the_pointer_reads_the_values_of_the_nearest_round(browser: Browser, report: Path) -> None:
    with opened(browser, report.as_uri()) as seen:
        plot = seen.page.locator("figure", has_text="held-out loss").locator(".plot")
        box = plot.bounding_box()
        assert box
        tip = plot.locator(".tip")
        expect(tip).to_be_hidden()
        seen.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 60)
        expect(tip).to_contain_text("round 3")
        expect(tip).to_contain_text("±")
        seen.page.mouse.move(box["x"] + 5, box["y"] + 60)
        expect(tip).to_contain_text("base model")
        inside = tip.bounding_box()
        assert inside
        assert box["x"] <= inside["x"]
        assert inside["x"] + inside["width"] <= box["x"] + box["width"] + 1
        seen.page.mouse.move(0, 0)
        expect(tip).to_be_hidden()


def test_the_keyboard_reads_them_too(browser: Browser, report: Path) -> None:
    with opened(browser, report.as_uri()) as seen:
        plot = seen.page.locator("figure", has_text="of the released model").locator(".plot")
        plot.focus()
        for key, said in (
            ("ArrowRight", "stage 1"),
            ("ArrowRight", "round 1"),
            ("End", "round 3"),
            ("ArrowLeft", "round 2"),
        ):
            seen.page.keyboard.press(key)
            expect(plot.locator(".tip")).to_contain_text(said)
        seen.page.keyboard.press("Escape")
        expect(plot.locator(".tip")).to_be_hidden()


def test_a_finger_reads_them_too(browser: Browser, report: Path) -> None:
    context = browser.new_context(viewport={"width": PHONE, "height": 700}, has_touch=True)
    page = context.new_page()
    page.goto(report.as_uri())
    plot = page.locator("figure", has_text="held-out accuracy").locator(".plot")
    plot.tap(position={"x": 200, "y": 60})
    expect(plot.locator(".tip")).to_contain_text("%")
    context.close()


def test_on_paper_it_is_light_and_whole(browser: Browser, report: Path) -> None:
    with opened(browser, report.as_uri(), DESK, "dark") as seen:
        dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert dark != "rgb(255, 255, 255)"
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert seen.page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_every_value_stands_in_a_table(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    page.locator("figure summary").first.click()
    expect(page.locator("figure table").first).to_contain_text("round 2")
    context.close()
    assert "round 2" in page_text(report.read_text(encoding="utf-8"))
