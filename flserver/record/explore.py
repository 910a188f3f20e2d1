"""The record in a browser: datasette over it, which only reads, with the cookbook's questions.

datasette is an extra (``explore``). It is given our own connections, which can do nothing but read, whatever SQL they
are handed, each for one query: an open one would keep a server that stops from putting its write-ahead log away. No
plugin is loaded. Whoever asks needs the address with its secret: the file's permissions say who reads the record, and a
port has none.
"""

import asyncio
import os
import re
import secrets
import signal
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from flserver.errors import NotInstalled, UsageError
from flserver.record.overview import RUNS
from flserver.record.questions import Question, questions
from flserver.settings.places import Place
from flserver.store.any_sql import MEANT, Asking, explained, limit_memory
from flserver.store.database import at, file_of
from flserver.store.reader import Reader, Row
from flserver.store.sqlite import reading_connection
from flserver.text import printable, three_decimals

HOST = "127.0.0.1"
MOST_RUNS = 20  # on the first page
NAME = "record"  # what the database is called in a URL, whatever its file is called
SETTINGS = {
    "allow_download": False,
    "default_cache_ttl": 0,  # a server may be writing
    "num_sql_threads": 2,
    "sql_time_limit_ms": 5000,
    "suggest_facets": False,
}
TEMPLATES = Path(__file__).with_name("templates")  # the runs, the questions, the views, then SQL
NOT_FROM_ELSEWHERE = frozenset({b"", b"none", b"same-origin"})
"""Of Sec-Fetch-Site, by which a browser says whose page it asks for: nobody's, or one of ours."""
Asgi = Callable[[Mapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def sql_of(asked: Question) -> str:
    """The question's SQL with a field ``run`` in place of ``run_id``: each run is meant as RUN is at the terminal. A
    field that is left empty is the newest run, or what the file says."""

    def meant(match: re.Match[str]) -> str:
        name = match[1]
        if name == "run_id":
            return f"{MEANT}(:run)"
        return (
            f"CASE :{name} WHEN '' THEN '' ELSE {MEANT}(:{name}) END" if name in asked.defaults else f"{MEANT}(:{name})"
        )

    return re.sub(r":(\w*run_id)\b", meant, asked.code).rstrip().removesuffix(";")


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


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run as the first page has it: texts."""

    run_id: str
    name: str
    status: str
    rounds: str
    clients: str
    strategy: str
    loss: str
    accuracy: str
    started_at: str


def runs_shown(place: Place, most: int = MOST_RUNS) -> tuple[list[Shown], int]:
    """The newest runs, ``most`` of them, and how many there are."""
    columns, rows = Reader(place).query(RUNS)
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    return [_shown(place, run) for run in found[:most]], len(found)


def _shown(place: Place, run: Row) -> Shown:
    return Shown(
        run_id=run["run_id"],
        name=printable(run["name"], 60),
        status=at(place).status_shown(run["status"], run["run_id"]),
        rounds=f"{run['rounds_committed']} of {run['num_rounds']}",
        clients=str(run["clients"]),
        strategy=printable(run["strategy"], 40),
        loss="" if run["loss"] is None else three_decimals(run["loss"]),
        accuracy="" if run["accuracy"] is None else three_decimals(run["accuracy"]),
        started_at=str(run["started_at"])[:19].replace("T", " "),
    )


def left_running(place: Place) -> list[str]:
    """The runs that are ``running`` on record while no server has them, by name and run_id."""
    _, rows = Reader(place).query("SELECT name, run_id FROM v1_runs WHERE status = 'running' ORDER BY started_at")
    return [printable(f"{name} ({run_id})") for name, run_id in rows if at(place).unheld(run_id) is not None]


def application(place: Place, base: str = "/") -> Any:
    """datasette over the SQLite database at ``place``, below the URL ``base``.

    Raises UsageError where it is not installed, or nothing can be read.
    """
    path = file_of(place, "datasette reads SQLite files: flserver db copy makes one of it")
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
    sqlite3.enable_callback_tracebacks(False)  # nor one for a run that is not there

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
                    asking = Asking(path, connection)
                    try:
                        return fn(connection)
                    # What is denied, or too large, is an error of whoever asked it, as datasette sees those of SQL.
                    except sqlite3.DatabaseError as error:
                        raise sqlite3.OperationalError(asking.why or explained(path, str(error))) from error
                    except MemoryError as error:
                        raise sqlite3.OperationalError("that takes too much memory") from error

            return await asyncio.get_running_loop().run_in_executor(self.ds.executor, ask)

        async def attached_databases(self) -> list[Any]:
            return []  # nothing can be attached, and asking for them is denied

        async def foreign_keys_for_table(self, table: str) -> list[Any]:
            return []  # for its links it would need the columns that ours leave to SQLite

    told = metadata([name for (name,) in rows], path.name)
    explorer = Datasette([], metadata=told, settings={**SETTINGS, "base_url": base}, template_dir=str(TEMPLATES))
    explorer.jinja_env.globals |= {
        "left_running": partial(left_running, path),
        "runs_shown": partial(runs_shown, path),
    }
    explorer.remove_database("_memory")
    explorer.add_database(ReadOnly(explorer, path=str(path)), name=NAME)
    return explorer


def for_us(app: Asgi, hosts: frozenset[str], base: str, opening: str = "") -> Asgi:
    """``app`` for those who ask one of these ``hosts`` for something below the secret URL ``base``, from its own pages.

    A page elsewhere gets nothing: neither under a name that is made to mean this machine (DNS rebinding), nor by asking
    for a picture and looking at the clock. Nor do this machine's other users, who do not know the secret. The URL
    ``opening`` leads there, once: all users see what a browser was started with.
    """
    secret, waiting = base.encode(), {opening.encode()} - {b""}

    async def checked(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        headers = dict(scope.get("headers", ()))
        path: bytes = scope["raw_path"]  # as datasette sees it, which decodes it itself
        if headers.get(b"host", b"").decode("latin-1").lower() not in hosts:
            said = b"the record is asked as 127.0.0.1 only\n"
        elif path in waiting:
            waiting.remove(path)
            to = [(b"location", secret + NAME.encode()), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 303, "headers": to})
            await send({"type": "http.response.body"})
            return
        elif not secrets.compare_digest(path[: len(secret)], secret):
            said = b"the address is the one that flserver explore has printed\n"
        elif headers.get(b"sec-fetch-site", b"") not in NOT_FROM_ELSEWHERE:
            said = b"another site asks: type or paste the address\n"
        else:
            # Without the base, as a proxy hands it on: datasette would put it before some of its links twice.
            below = b"/" + path[len(secret) :]
            return await app({**scope, "path": unquote(below), "raw_path": below}, receive, send)
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": said})

    return checked


def explore(place: Place, port: int, *, browser: bool, say: Callable[[str], None]) -> None:
    """Serve the record on loopback until Ctrl-C or SIGTERM; ``say`` is told where. ``browser`` opens one there.

    ``port`` 0 is any free one. Raises UsageError where it is taken, and as :func:`application`.
    """
    base = f"/{secrets.token_urlsafe()}/"
    explorer = application(place, base)
    import uvicorn

    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error.strerror}") from error
    with listener:
        port = listener.getsockname()[1]
        url = f"http://{HOST}:{port}{base}{NAME}"
        limit_memory()
        hosts, opening = frozenset({f"{HOST}:{port}", f"localhost:{port}"}), f"/{secrets.token_urlsafe()}"
        app = for_us(explorer.app(), hosts, base, opening)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        say(f"the record is at {url} (Ctrl-C ends it)")
        once = f"http://{HOST}:{port}{opening}"
        opener = threading.Thread(target=webbrowser.open, args=(once,), name="browser")
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
