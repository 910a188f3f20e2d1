"""What datasette is told of the record, and who is answered."""

import asyncio
import builtins
import socket
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flserver.errors import UsageError
from flserver.record.explore import HOST, NAME, application, explore, for_us, left_running, metadata, sql_of
from flserver.record.questions import answer, question, questions
from flserver.store.any_sql import Asking
from flserver.store.lock import DatabaseLock
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.sqlite import reading_connection
from tests import facts, golden
from tests.store import story


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explored") / "runs.sqlite"
    golden.old_record(path)
    ensure_head(path)
    return path


@pytest.mark.parametrize("name", questions())
def test_a_question_has_the_same_answer_as_at_the_terminal(db: Path, name: str) -> None:
    asked, reader = question(name), Reader(db)
    values = golden.GIVEN.get(name, {})
    if name in golden.DIGESTS:
        _, ((digest,),) = reader.query(golden.DIGESTS[name])
        values = {"digest": digest}
    fields = dict.fromkeys(metadata([])["databases"][NAME]["queries"][name]["params"], "")
    as_text = fields | {key: str(value) for key, value in values.items()}
    for run in ("", "newest", "pilot", reader.run("pilot")["run_id"][:-1]) if "run" in fields else ("",):
        named = None if run in ("", "newest") else run
        assert asked_of(db, sql_of(asked), as_text | {"run": run}) == list(answer(reader, asked, named, values).rows), (
            run
        )


def asked_of(db: Path, sql: str, fields: Mapping[str, str]) -> list[tuple[Any, ...]]:
    """As the explorer asks. Raises UsageError where that says why."""
    with closing(reading_connection(db)) as connection:
        asking = Asking(db, connection)
        try:
            return [tuple(row) for row in connection.execute(sql, fields)]
        except sqlite3.OperationalError as error:
            raise UsageError(asking.why or str(error)) from error


def test_another_run_is_meant_as_the_run_is(db: Path) -> None:
    asked, reader = question("settings_that_differ"), Reader(db)
    other = reader.runs()[-1]
    expected = list(answer(reader, asked, None, {"other_run_id": other["name"]}).rows)
    assert expected
    for ref in (other["name"], other["run_id"], other["run_id"][:-1]):
        assert asked_of(db, sql_of(asked), {"run": "", "other_run_id": ref}) == expected, ref
    left_out = list(answer(reader, asked, None, {}).rows)
    assert asked_of(db, sql_of(asked), {"run": "", "other_run_id": ""}) == left_out


@pytest.mark.parametrize("name", [name for name in questions() if "run_id" in question(name).parameters])
def test_a_run_that_is_not_there_is_no_empty_answer(db: Path, name: str) -> None:
    fields = dict.fromkeys(metadata([])["databases"][NAME]["queries"][name]["params"], "")
    with pytest.raises(UsageError, match="has no run 'nowhere'"):
        asked_of(db, sql_of(question(name)), fields | {"run": "nowhere"})


def test_no_value_and_no_answer_takes_all_memory(db: Path) -> None:
    with closing(reading_connection(db)) as connection:
        Asking(db, connection)
        with pytest.raises(sqlite3.DataError, match="too big"):
            connection.execute("SELECT length(zeroblob(1000000000))").fetchall()
        assert connection.execute("SELECT length(zeroblob(4000000))").fetchone()[0] == 4_000_000
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) "
        with pytest.raises(sqlite3.OperationalError, match="the answer is larger than 32 MB"):
            connection.execute(numbers + "SELECT hex(zeroblob(50000)) FROM n").fetchall()


def test_a_run_that_was_killed_is_known_to_be(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    story.write(path, [*story.sound_run(), facts.run_ended("completed")])
    story.write(path, story.left_over(), run_id=story.LEFT, process_id=2)
    assert left_running(path) == [f"killed ({story.LEFT})"]
    with DatabaseLock(path):
        assert left_running(path) == []


HOSTS, BASE = frozenset({"127.0.0.1:80", "localhost:80"}), "/the-secret/"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/the-secret/record", {"host": "127.0.0.1:80"}, 200),
        ("/the-secret/record", {"host": "LOCALHOST:80", "sec-fetch-site": "same-origin"}, 200),
        ("/the-secret/record", {"host": "127.0.0.1:80", "sec-fetch-site": "none"}, 200),
        ("/the-secret/record", {"host": "127.0.0.1:80", "sec-fetch-site": "cross-site"}, 403),
        ("/the-secret/record", {"host": "127.0.0.1:80", "sec-fetch-site": "same-site"}, 403),
        ("/the-secret/record", {"host": "evil.example"}, 403),
        ("/the-secret/record", {"host": "127.0.0.1"}, 403),
        ("/the-secret/record", {}, 403),
        *((path, {"host": "127.0.0.1:80"}, 403) for path in ("/", "", "/record", "/the-secre/record", "/the-secret")),
        ("/%74he-secret/record", {"host": "127.0.0.1:80"}, 403),
    ],
)
def test_who_asks_from_elsewhere_or_without_the_secret_gets_nothing(
    path: str, headers: dict[str, str], status: int
) -> None:
    """A page of another site, one whose name was made to mean 127.0.0.1 too, and this machine's other users."""
    assert statuses([path], headers) == [status]


def test_the_way_in_of_a_browser_is_good_for_once() -> None:
    host = {"host": "127.0.0.1:80"}
    assert statuses(["/once", "/once"], {"host": "evil.example"}) == [403, 403]
    assert statuses(["/once", "/once", "/", "/the-secret/"], host) == [303, 403, 403, 200]


def statuses(paths: list[str], headers: Mapping[str, str]) -> list[int]:
    """What they are answered; what is let through is seen without the secret, as datasette is to see it."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (scope["path"], scope["raw_path"]) in {("/record", b"/record"), ("/", b"/")}
        sent.append({"status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        checked = for_us(app, HOSTS, BASE, "/once")
        lines = [(name.encode(), value.encode()) for name, value in headers.items()]
        for path in paths:
            scope = {"type": "http", "path": "", "raw_path": path.encode(), "headers": lines}
            await checked(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(ask())
    return [message["status"] for message in sent if "status" in message]


def test_without_datasette_or_a_database_or_the_port_it_is_said(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="there is no database"):
        application(tmp_path / "none.sqlite")
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} cannot be used: Address already in use"):
            explore(db, port, browser=False, say=print)
    known = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("datasette"):
            raise ImportError(name)
        return known(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=rf"{sys.executable} -m pip install 'flserver\[explore\]'"):
        application(db)
