"""The record in a browser, while a server writes it."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flserver.record.questions import questions
from flserver.store.lock import DatabaseLock
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests import facts
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, TESTS, Peer
from tests.eventful_run import Facts
from tests.old_record import old_record
from tests.patience import PATIENCE
from tests.store import story

Join = Callable[..., list[Peer]]
CHROMIUM = "/usr/bin/chromium"
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync"


@contextmanager
def explored(db: Path) -> Iterator[str]:
    """Where it is, until Ctrl-C."""
    command = ["-m", "flserver", "--db", str(db), "explore", "--no-browser"]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    with_pipe: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *command], cwd=db.parent, env=environment, text=True, **with_pipe)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"the record is at (http://127\.0\.0\.1:\d+/[\w-]{40,}/record) \(Ctrl-C ends it\)\n", line)
        assert found, line
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def rows(url: str, name: str, **fields: object) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"_shape": "array", **fields})
    with urllib.request.urlopen(f"{url}/{name}.json?{query}", timeout=PATIENCE) as response:
        return list(json.load(response))


def status_of(url: str | urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def refused(url: str) -> str:
    with pytest.raises(urllib.error.HTTPError) as error, urllib.request.urlopen(url, timeout=PATIENCE):
        pass
    with error.value:
        return str(json.load(error.value)["error"])


def test_it_sees_what_a_server_writes_and_holds_it_up_in_nothing(start: Start, join: Join) -> None:
    server = start("--num-rounds", "2", "--min-clients", "2", "--run-name", "live", *FAST)
    a, b = join(server, "a", "b")
    for peer in (a, b):
        peer.answer()
    server.wait_for_sql("SELECT 1 FROM v1_client_rounds WHERE round = 2 LIMIT 1 OFFSET 1")
    models = [peer.model() for peer in (a, b)]
    server.wait_for_sql("SELECT 1 FROM v1_messages WHERE round = 2 AND direction = 'out' LIMIT 1 OFFSET 1")
    files = [server.db, server.db.with_name("runs.sqlite-wal")]
    with explored(server.db) as url:
        before = [file.read_bytes() for file in files]
        assert [row["round"] for row in rows(url, "learning_curve")] == [0, 1]
        assert {row["client_id"] for row in rows(url, "who_took_part", run="live", round=1)} == {"a", "b"}
        assert len(rows(url, "v1_rounds")) == 3
        assert status_of(urllib.request.Request(url, headers={"Host": "evil.example"})) == 403
        assert status_of(urllib.request.Request(url, headers={"Sec-Fetch-Site": "cross-site"})) == 403
        root = url.removesuffix("/record").rpartition("/")[0]
        assert [status_of(f"{root}{path}") for path in ("/", "/record", "/record/v1_rounds.json")] == [403] * 3
        assert [file.read_bytes() for file in files] == before, "no checkpoint of the write-ahead log"
        for peer, model in zip((a, b), models, strict=True):
            peer.upload(model)
        for peer in (a, b):
            peer.finished()
        assert server.exit_code() == 0
        assert [row["round"] for row in rows(url, "learning_curve", run="live")] == [0, 1, 2]
        assert not files[1].exists(), "a stop puts its write-ahead log away as if nobody looked on"


def test_its_pages_have_the_questions_and_it_can_only_be_read(eventful: Facts) -> None:
    before = eventful.db.read_bytes()
    writes = ("delete from events", "attach 'x' as y", "select writefile('x', 'y')", "vacuum into 'x'")
    writes += ("with a as (select 1) delete from events", "pragma journal_mode = wal", "select load_extension('x')")
    with explored(eventful.db) as url:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            page = response.read().decode()
        assert [each.title for each in questions().values() if each.title.replace("'", "&#39;") not in page] == []
        assert "<title>runs.sqlite</title>" in page
        for run in Reader(eventful.db).runs():
            assert f'/run_at_a_glance?run={run["run_id"]}" title="{run["run_id"]}">{run["name"]}</a>' in page
            assert f"{run['rounds_committed']} of {run['num_rounds']}</a>" in page
        places = [page.index(part) for part in ('id="runs"', 'id="questions"', 'id="views"', "<textarea")]
        assert places == sorted(places), "the runs first, then what can be asked of them"
        assert ("/record/v1_updates" in page, "/record/client_rounds" in page) == (True, False)
        assert status_of(f"{url}/rounds") == 200, "a hidden table, too"
        with urllib.request.urlopen(f"{url}/learning_curve", timeout=PATIENCE) as response:
            links = re.findall(r'href="([^"]+)"', response.read().decode())
        ours = [link for link in map(html.unescape, links) if link.startswith("/")]
        assert len(ours) > 5
        assert {status_of(urllib.parse.urljoin(url, link)) for link in ours} == {200}
        for sql in writes:
            assert status_of(f"{url}.json?" + urllib.parse.urlencode({"sql": sql})) == 400, sql
        assert status_of(f"{url}.db") in (403, 404), "nor is the file given away"
        nowhere = refused(f"{url}/learning_curve.json?run=nowhere")
        assert nowhere == f"{eventful.db} has no run 'nowhere'; the newest are 'night', 'pilot'"
        blobs = ", ".join(["zeroblob(9000000)"] * 100)
        for large, said in (
            ("select zeroblob(1000000000)", "string or blob too big"),
            (f"select {blobs}", "that takes too much memory"),
            ("select hex(randomblob(4e6)) from v1_events", "the answer is larger than 32 MB: ask for less"),
        ):
            assert refused(f"{url}.json?" + urllib.parse.urlencode({"sql": large})) == said
        endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
        assert status_of(f"{url}.json?" + urllib.parse.urlencode({"sql": endless, "_timelimit": 50})) == 400
    assert eventful.db.read_bytes() == before
    assert not (eventful.db.parent / "x").exists()


def test_every_page_says_which_run_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    story.write(path, [*story.sound_run(), facts.run_ended("completed")])
    story.write(path, story.left_over(), run_id=story.LEFT, process_id=2)
    said = f"running (no server has it): killed ({story.LEFT})"
    with explored(path) as url:

        def pages() -> list[str]:
            places = ("", "/v1_runs", "/run_at_a_glance?run=killed", "?sql=SELECT+1")
            answers = [urllib.request.urlopen(url + place, timeout=PATIENCE) for place in places]
            return [answer.read().decode() for answer in map(stack.enter_context, answers)]

        with ExitStack() as stack:
            found = [(page.count(said), page.count("(no server has it)")) for page in pages()]
            assert found == [(1, 2), (1, 1), (1, 1), (1, 1)], "the first page has it among the runs too"
            with DatabaseLock(path):
                assert not any("no server has it" in page for page in pages())


def test_what_an_older_database_has_not_is_said_with_what_to_do(tmp_path: Path) -> None:
    old_record(tmp_path / "old.sqlite", "0013")
    with explored(tmp_path / "old.sqlite") as url:
        said = refused(f"{url}/unlike_the_others.json")
        assert re.match("no such column: update_cosine: .* db upgrade, which keeps a copy$", said)
        assert rows(url, "learning_curve"), "all else is answered"


@pytest.mark.browser
def test_a_question_is_asked_in_a_browser(eventful: Facts) -> None:
    from playwright.sync_api import sync_playwright

    with explored(eventful.db) as url, sync_playwright() as playwright:
        patience = 1000 * PATIENCE  # it counts in milliseconds, and by itself gives up after 30 seconds
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split(), timeout=patience)
        page = browser.new_page()
        page.set_default_timeout(patience)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        asked = "Who was invited and did not answer, and why?"
        page.get_by_role("link", name=asked).click()
        page.get_by_role("heading", level=1, name=asked, exact=True).wait_for()  # the click may be before the page
        assert "round defaults to all rounds." in page.inner_text("body")
        page.get_by_label("run").fill("night")
        page.get_by_label("round").fill("3")
        page.get_by_role("button", name="Run SQL").click()
        page.wait_for_url("**round=3**")
        table = [cell.inner_text().strip() for cell in page.locator("table.rows-and-columns tbody td").all()]
        assert table[:7] == ["3", "1", "3", "Oslo", "dropped", "", "closed"]
        assert page.locator("table.rows-and-columns tbody tr").count() == 1
        assert errors == []
        browser.close()
