"""Draws the README's picture of a report, of the eventful run: ``ops/write-screenshot``."""

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from flserver.report.facts import read_facts
from flserver.report.page import page
from flserver.store.snapshot import snapshot

PICTURE = Path(__file__).resolve().parents[1] / ".github" / "report.png"
WIDTH, HEIGHT = 1000, 700
SHOWN = ("summary", "learning", "clients")
"""The sections that it shows of, below each other."""
LEFT_OUT = ("nav", "footer", "details", "h3", "main ul:not(.legend)", "figure ~ figure:not(.pair *)")
COLOURS = 256


def shoot(browser: Any, html: str, out: Path) -> None:
    """Draw parts of a report, light, into a PNG of ``COLOURS``."""
    from PIL import Image

    others = "section" + "".join(f":not([aria-labelledby={name}])" for name in SHOWN)
    shown = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    shown.set_content(html)
    gone = ", ".join((others, *LEFT_OUT))
    shown.evaluate("gone => document.querySelectorAll(gone).forEach(one => one.remove())", gone)
    drawn = io.BytesIO(shown.screenshot(full_page=True))  # given a path, playwright would write it on threads that stay
    shown.close()
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(out, optimize=True)


def main() -> None:
    from playwright.sync_api import sync_playwright

    from tests.eventful_run import write_eventful_run

    with tempfile.TemporaryDirectory() as made:
        db = write_eventful_run(Path(made)).db
        with snapshot(db) as reader:
            html = page([read_facts(reader, "night", db)])
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        shoot(browser, html, PICTURE)
        browser.close()
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
