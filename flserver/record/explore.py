"""The record in a browser: datasette over it, which only reads, with the cookbook's questions.

datasette is an extra (``explore``). It is given our own connections, which can do nothing but read, whatever SQL they
are handed, each for one query: an open one would keep a server that stops from putting its write-ahead log away. No
plugin is loaded.
"""

import asyncio
import os
import re
import signal
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

from flserver.errors import NotInstalled, UsageError
from flserver.record.questions import Question, questions
from flserver.store.reader import Reader
from flserver.store.sqlite import reading_connection

HOST = "127.0.0.1"
NAME = "record"  # what the database is called in a URL, whatever its file is called
SETTINGS = {
    "allow_download": False,
    "default_cache_ttl": 0,  # a server may be writing
    "num_sql_threads": 2,
    "sql_time_limit_ms": 5000,
    "suggest_facets": False,
}
TEMPLATES = Path(__file__).with_name("templates")  # the questions first, then the views, then SQL
NEWEST = (
    "(SELECT run_id FROM v1_runs WHERE :run IN ('', 'newest', run_id, name)"
    " ORDER BY run_id = :run DESC, started_at DESC LIMIT 1)"
)
Asgi = Callable[[Mapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def sql_of(asked: Question) -> str:
    """The question's SQL with a field ``run`` in place of ``run_id``: an id, a name, or nothing for the newest."""
    return re.sub(r":run_id\b", lambda _: NEWEST, asked.code).rstrip().removesuffix(";")


def metadata(tables: list[str], title: str = NAME) -> dict[str, Any]:
    """What datasette is told: the page's ``title``, the questions, and that the ``tables`` are none of its readers'
    business."""
    canned = {each.name: _canned(each) for each in questions().values()}
    hidden = {table: {"hidden": True} for table in tables}
    return {
        "title": "flserver",
        "description": "The record, as the v1_ views have it, and the questions of the cookbook. It can only be read.",
        "databases": {NAME: {"title": title, "queries": canned, "tables": hidden}},
    }


def _canned(asked: Question) -> dict[str, Any]:
    params = ["run" if name == "run_id" else name for name in asked.parameters]
    defaults = {"run": "the newest run"} if "run" in params else {}
    told = [f"{name} defaults to {default}." for name, default in {**defaults, **asked.defaults}.items()]
    nothing = [f"No rows: {asked.nothing}"] if asked.nothing else []
    description = " ".join([asked.reading, *told, *nothing])
    return {
        "title": asked.title,
        "description": description.strip(),
        "sql": sql_of(asked),
        "params": params,
        "hide_sql": True,
    }


def title_of(path: Path) -> str:
    """The database's name, and its newest run."""
    _, newest = Reader(path).query("SELECT name, run_id FROM v1_runs ORDER BY started_at DESC, run_id DESC LIMIT 1")
    return " ".join([path.name, *(f"– run {name} ({run_id})" for name, run_id in newest)])


def application(path: Path) -> Any:
    """datasette over the database at ``path``. Raises UsageError where it is not installed, or nothing can be read."""
    _, rows = Reader(path).query("SELECT name FROM sqlite_master WHERE type = 'table'")
    os.environ.setdefault("DATASETTE_LOAD_PLUGINS", "")
    try:
        from datasette.app import Datasette
        from datasette.database import Database
        from datasette.utils.sqlite import sqlite3
    except ImportError as error:
        raise NotInstalled("explore needs datasette", "explore") from error

    # It would print a screenful of what is in memory for each slip of somebody's SQL. Imported first it would not work.
    vars(import_module("datasette.handle_exception"))["rich"] = None

    class ReadOnly(Database):  # type: ignore[misc]
        """Each query has a connection of its own, which can only read."""

        def connect(self, write: bool = False) -> Any:
            if write:
                raise PermissionError("the record can only be read")
            return reading_connection(path)

        async def execute_fn(self, fn: Callable[[Any], Any]) -> Any:
            def ask() -> Any:
                with closing(self.connect()) as connection:
                    self.ds._prepare_connection(connection, self.name)
                    try:
                        return fn(connection)
                    except sqlite3.DatabaseError as error:
                        # What is denied is an error of whoever asked it, as datasette sees those of SQL.
                        raise sqlite3.OperationalError(str(error)) from error

            return await asyncio.get_running_loop().run_in_executor(self.ds.executor, ask)

        async def attached_databases(self) -> list[Any]:
            return []  # nothing can be attached, and asking for them is denied

    told = metadata([name for (name,) in rows], title_of(path))
    explorer = Datasette([], metadata=told, settings=SETTINGS, template_dir=str(TEMPLATES))
    explorer.remove_database("_memory")
    explorer.add_database(ReadOnly(explorer, path=str(path)), name=NAME)
    return explorer


def for_hosts(app: Asgi, hosts: frozenset[str]) -> Asgi:
    """``app`` for those who ask one of these ``hosts``: a page elsewhere whose name is made to mean this machine gets
    nothing (DNS rebinding)."""

    async def checked(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        host = dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1").lower()
        if scope["type"] == "lifespan" or host in hosts:
            return await app(scope, receive, send)
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"the record is asked as 127.0.0.1 only\n"})

    return checked


def explore(path: Path, port: int, *, browser: bool, say: Callable[[str], None]) -> None:
    """Serve the record on loopback until Ctrl-C or SIGTERM; ``say`` is told where. ``browser`` opens one there.

    ``port`` 0 is any free one. Raises UsageError where it is taken, and as :func:`application`.
    """
    explorer = application(path)
    import uvicorn

    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error.strerror}") from error
    with listener:
        port = listener.getsockname()[1]
        url = f"http://{HOST}:{port}/{NAME}"
        hosts = frozenset({f"{HOST}:{port}", f"localhost:{port}"})
        config = uvicorn.Config(for_hosts(explorer.app(), hosts), log_level="warning", timeout_graceful_shutdown=3)
        say(f"the record is at {url} (Ctrl-C ends it)")
        opener = threading.Thread(target=webbrowser.open, args=(url,), name="browser")
        if browser:
            opener.start()
        # What uvicorn was ended by it raises once more when it has ended.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
            if browser:
                opener.join()
