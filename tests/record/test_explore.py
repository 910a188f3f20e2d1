"""What datasette is told of the record, and who is answered."""

import asyncio
import builtins
import socket
from pathlib import Path
from typing import Any

import pytest

from flserver.errors import UsageError
from flserver.record.explore import HOST, NAME, application, explore, for_hosts, metadata, sql_of
from flserver.record.questions import answer, question, questions
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests import golden


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
    for run in ("", "newest", "pilot", "nowhere") if "run" in fields else ("",):
        named = None if run in ("", "newest") else run
        found = reader.query(sql_of(asked), as_text | {"run": run})[1]
        expected = [] if run == "nowhere" else list(answer(reader, asked, named, values).rows)
        assert found == expected, run


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:80", 200), ("LOCALHOST:80", 200), ("evil.example", 403), ("127.0.0.1", 403), (None, 403)],
)
def test_who_asks_under_another_name_gets_nothing(host: str | None, status: int) -> None:
    """A page of another site whose name was made to mean 127.0.0.1."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sent.append({"status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if host is None else [(b"host", host.encode())]
    checked = for_hosts(app, frozenset({"127.0.0.1:80", "localhost:80"}))
    asyncio.run(checked({"type": "http", "headers": headers}, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == status


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
    with pytest.raises(UsageError, match=r"pip install 'flserver\[explore\]'"):
        application(db)
