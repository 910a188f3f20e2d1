"""The page in a browser: it loads nothing, fits a phone, is dark where it is dark, prints, and is read aloud."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flserver.report.page import page
from tests.patience import PATIENCE
from tests.report.conftest import HOSTILE, read
from tests.screenshot import PICTURE, shoot

pytestmark = pytest.mark.browser

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1100, "height": 900}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        patience = 1000 * PATIENCE  # it counts in milliseconds, and by itself gives up after 30 seconds
        started = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=list(ARGUMENTS), timeout=patience
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page's HTML as a file. What its console says and what it asks for are in ``said`` and ``asked``; what of
    that was not sent, in ``blocked``."""
    contexts = []

    def open_it(html: str, viewport: dict[str, int] = DESK, **context: Any) -> Any:
        file = tmp_path / f"report{len(contexts)}.html"
        file.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(viewport=viewport, **context))
        contexts[-1].set_default_timeout(1000 * PATIENCE)
        shown = contexts[-1].new_page()
        shown.said, shown.asked, shown.blocked = [], [], []
        shown.on("console", lambda message: shown.said.append(message.text))
        shown.on("pageerror", lambda error: shown.said.append(str(error)))
        shown.on("requestfailed", lambda request: shown.blocked.append((request.url, request.failure)))
        shown.on("request", lambda request: shown.asked.append(request.url))
        shown.goto(file.as_uri())
        return shown

    yield open_it
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def pages(eventful: Path, eventful_page: str, hostile: Path, recorded_night: Path, small: Path) -> dict[str, str]:
    return {
        "eventful": eventful_page,
        "small": page([read(small, "many")]),
        "hostile": page([read(hostile, HOSTILE, personal=True)]),
        "empty": page([read(recorded_night, "plain")]),
        "compared": page([read(recorded_night, "night"), read(eventful, "night"), read(hostile, HOSTILE)]),
    }


def test_it_asks_for_nothing_complains_of_nothing_and_fits(opened: Open, pages: dict[str, str]) -> None:
    for kind, html in pages.items():
        shown = opened(html, PHONE)
        assert (kind, shown.said) == (kind, [])
        assert len(shown.asked) == 1, kind
        shown.evaluate("document.querySelectorAll('details').forEach(found => found.open = true)")
        for viewport in (PHONE, DESK):
            shown.set_viewport_size(viewport)
            wide = shown.evaluate("document.documentElement.scrollWidth")
            assert (kind, wide) == (kind, viewport["width"]), "with all its tables open"


def test_two_runs_beside_each_other_fit_a_phone(opened: Open, recorded_night: Path, eventful: Path) -> None:
    shown = opened(page([read(recorded_night, "night"), read(eventful, "night")]), PHONE)
    right = "[...document.querySelectorAll('main > section > .scroll td')].map(td => td.getBoundingClientRect().right)"
    edges = shown.evaluate(right)
    assert len(edges) > 20
    assert max(edges) <= PHONE["width"]
    wider = "cell => cell.scrollWidth > cell.clientWidth"
    assert shown.evaluate(f"[...document.querySelectorAll('.two th, .two td')].filter({wider}).length") == 0


def test_three_runs_and_more_stand_below_each_other_on_a_phone(opened: Open, pages: dict[str, str]) -> None:
    shown = opened(pages["compared"], PHONE)
    shown.evaluate("document.querySelectorAll('details').forEach(found => found.open = true)")
    tables = "[...document.querySelectorAll('.stack')]"
    assert shown.evaluate(f"{tables}.length") >= 2
    parts = "[...document.querySelectorAll(':is(.stack, .two) :is(tbody *, caption), .scroll:has(.stack, .two)')]"
    assert shown.evaluate(f"{parts}.length") > 100
    wider = "part => part.scrollWidth > part.clientWidth && getComputedStyle(part).display !== 'inline'"
    assert shown.evaluate(f"{parts}.filter({wider}).map(part => part.outerHTML)") == []
    assert shown.evaluate(f"{tables}.every(found => found.getBoundingClientRect().right <= {PHONE['width']})")
    named = "(cell => [getComputedStyle(cell, '::before').content, cell.dataset.of])"
    cells = shown.evaluate(f"[...document.querySelectorAll('.stack tbody td')].map({named})")
    assert len(cells) > 30
    shows = [(content.replace("\\\\", "\\"), of) for content, of in cells]
    assert all(content in ("attr(data-of)", f'"{of}"') for content, of in shows), "each says which run it is of"
    tree = shown.locator(".stack").first.aria_snapshot()
    assert tree.startswith("- table ")
    assert all(f"- {role}" in tree for role in ("rowgroup", "row ", "rowheader", "cell"))
    shown.set_viewport_size(DESK)
    assert shown.evaluate("getComputedStyle(document.querySelector('.stack td')).display") == "table-cell"


def test_the_picture_in_the_readme_is_made_of_a_report(browser: Any, pages: dict[str, str], tmp_path: Path) -> None:
    from PIL import Image

    shoot(browser, pages["eventful"], tmp_path / "drawn.png")
    for picture in (tmp_path / "drawn.png", PICTURE):
        with Image.open(picture) as read:
            assert (read.format, read.width) == ("PNG", 1000)
            assert read.height > 700, "with its charts"
            assert len(read.getcolors() or ()) > 16
        assert picture.stat().st_size < 150_000
    assert f'src="{PICTURE.parent.name}/{PICTURE.name}"' in (PICTURE.parents[1] / "README.md").read_text()


def test_its_policy_holds_against_what_would_run(opened: Open, pages: dict[str, str]) -> None:
    planted = "<script>document.title = 'ran'</script><img src='https://192.0.2.1/x.png'><p style='color: red'>x</p>"
    shown = opened(pages["eventful"].replace("</main>", f"{planted}</main>"))
    assert shown.title() != "ran"
    assert shown.blocked == [("https://192.0.2.1/x.png", "csp")]
    assert sum("Content Security Policy" in line for line in shown.said) >= 3


def test_dark_and_light_are_the_readers_choice(opened: Open, pages: dict[str, str]) -> None:
    def colours(scheme: str) -> list[str]:
        shown = opened(pages["small"], color_scheme=scheme)
        of = "[['body', 'backgroundColor'], ['body', 'color'], ['.chart text', 'fill'], ['.picture .cell', 'fill']]"
        return list(shown.evaluate(f"{of}.map(([of, what]) => getComputedStyle(document.querySelector(of))[what])"))

    light, dark = colours("light"), colours("dark")
    assert light[:2] == ["rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    assert dark[:2] == ["rgb(22, 25, 29)", "rgb(232, 235, 239)"]
    assert all(one != other for one, other in zip(light, dark, strict=True))


def test_it_is_read_aloud(opened: Open, pages: dict[str, str]) -> None:
    shown = opened(pages["small"])
    tree = shown.locator("body").aria_snapshot()
    pictures = re.findall(r"""- '?img "([^\n]*)""", tree)
    assert len(pictures) == 7
    for name in ("Accuracy by round", "Where each round", "Who took part", "How long each", "How far", "Whose updates"):
        assert any(picture.startswith(name) for picture in pictures), name
    assert "- main" in tree
    assert "- navigation" in tree
    assert shown.locator("html").get_attribute("lang") == "en"


def test_every_picture_has_its_table_by_client_and_by_round(opened: Open, pages: dict[str, str]) -> None:
    shown = opened(pages["small"])
    rows = {"Update norms by round": 12, "Update norms by client": 8, "What came of the rounds, by client": 8}
    rows |= {"What came of the clients, by round": 12, "Weights by client": 8, "Seconds by attempt": 13}
    rows |= {"Accuracy and loss by round": 13}
    for caption, expected in rows.items():
        details = shown.locator("details", has_text=f"Table: {caption}").first
        assert not details.locator("table").is_visible()
        details.locator("summary").click()
        assert details.locator("table").is_visible()
        assert (caption, details.locator("tbody tr").count()) == (caption, expected)


def test_the_keyboard_comes_past_the_navigation(opened: Open, pages: dict[str, str]) -> None:
    shown = opened(pages["small"])
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert shown.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    shown.keyboard.press("Enter")
    shown.wait_for_url("**#content")  # the key is taken before the page has moved


def test_on_paper_all_tables_are_open_and_it_is_light(opened: Open, pages: dict[str, str]) -> None:
    shown = opened(pages["small"], color_scheme="dark")
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tables = "[...document.querySelectorAll('details table')]"
    heights = shown.evaluate(f"{tables}.map(table => table.getBoundingClientRect().height)")
    assert len(heights) >= 8
    assert min(heights) > 20
    printed = shown.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 4


def test_200_clients_in_1000_rounds_are_small_and_open_at_once(opened: Open, large_page: str, tmp_path: Path) -> None:
    shown = opened("<p>nothing yet</p>")
    session = shown.context.new_cdp_session(shown)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    file = tmp_path / "large.html"
    file.write_text(large_page, encoding="utf-8")
    shown.goto(file.as_uri())
    spent = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    assert spent["TaskDuration"] < 2, "seconds of the processor, to parse, lay out and paint"
    assert shown.evaluate("document.documentElement.scrollWidth") == DESK["width"]
    shown.set_viewport_size(PHONE)
    assert shown.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert shown.said == []
