"""How the database is read: each call opens a connection that cannot write, sees one state, and closes."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from flserver.errors import UsageError
from flserver.settings.places import Place
from flserver.store.database import at
from flserver.store.postgres import asking
from flserver.store.sqlite import all_text, cause

Row = Mapping[str, Any]
"""A row of a view: its columns by name."""

PAGE = 1000
"""Rows in memory at once, where they are read one after another."""


class Readable:
    """The database at ``place``, or that of the engine ``stand_in``, which stands for it, to be asked anything.

    Every method raises UsageError where there is no database that can be read, or it is none of ours.
    """

    def __init__(self, place: Place, stand_in: Engine | None = None) -> None:
        self._database = at(place)
        self._stands_in = stand_in is not None
        self._engine = stand_in or self._database.reading_engine()

    @property
    def place(self) -> Place:
        return self._database.place

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one statement that only reads. Returns its columns' names, and its rows.

        ``parameters`` are the values of the statement's ``:name``, by name; it need not have all of them. Raises
        UsageError, with SQLite's words, for bad SQL and for whatever would write. Text that is not UTF-8 has escapes
        where it is none.
        """
        with self.asking() as asked:
            return asked.rows(sql, parameters)

    def each(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """As :meth:`query`, with ``PAGE`` rows in memory at once: they are read while they are asked for, and the
        database is open until the last one is, or the iterator is closed."""
        with ExitStack() as stack:
            columns, pages = stack.enter_context(self.asking()).pages(sql, parameters)
            rows = _until_read(pages, stack.pop_all())
            next(rows)
            return columns, rows

    @contextmanager
    def asking(self) -> Iterator["Asked"]:
        """Within the block, several questions are answered from one state of the database."""
        with self._connect() as connection, all_text(connection):
            asked = Asked(connection)
            try:
                yield asked
            finally:
                asked.close()

    def _rows(self, query: str, **parameters: Any) -> list[Row]:
        with self._errors(), self._connect() as connection:
            return [dict(row) for row in connection.execute(text(query), parameters).mappings()]

    def _first(self, query: str, **parameters: Any) -> Row | None:
        rows = self._rows(query, **parameters)
        return rows[0] if rows else None

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        if not self._stands_in:
            self._database.require_there()
        with self._errors():
            connection = self._engine.connect()
        with connection:
            with self._errors():
                ours = self._database.is_ours(connection)
            if not ours:
                raise UsageError(f"{self._database} is no database of flserver")
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise self._database.unusable("read", error) from error


def _until_read(pages: Iterator[list[tuple[Any, ...]]], opened: ExitStack) -> Iterator[Any]:
    """A first element, which is nothing, so that what is ``opened`` is closed however little is read; then the rows."""
    with opened:
        yield None
        for page in pages:
            yield from page


_VIEWS = "SELECT name FROM sqlite_master WHERE type = 'view' AND name LIKE 'v1!_%' ESCAPE '!' ORDER BY name"


class Asked:
    """One state of the database, while :meth:`Readable.asking` lasts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._results: list[CursorResult[Any]] = []

    def close(self) -> None:
        """Nothing more is read, also of what was begun."""
        for result in self._results:
            result.close()

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
        """As :meth:`Readable.query`."""
        columns, pages = self.pages(sql, parameters)
        return columns, [row for page in pages for row in page]

    def pages(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> tuple[list[str], Iterator[list[tuple[Any, ...]]]]:
        """The same, with ``PAGE`` rows in memory at once."""
        with _words(sql):
            result = self._ask(sql, parameters or {})
            self._results.append(result)
            if not result.returns_rows:
                return [], iter(())

        def pages() -> Iterator[list[tuple[Any, ...]]]:
            with _words(sql):
                for page in result.partitions(PAGE):
                    yield [tuple(row) for row in page]

        return list(result.keys()), pages()

    def views(self) -> list[str]:
        """The names of the views that are the contract, in ascending order."""
        found = self.rows(asking.VIEWS if self._on_postgres else _VIEWS)[1]
        return [str(name) for (name,) in found]

    def columns(self, view: str) -> list[tuple[str, str]]:
        """The columns of a view in order, each with its type in SQLite's words, empty where none is declared. None of
        them, where there is no such view."""
        if self._on_postgres:
            return [(name, kind) for name, kind in self.rows(asking.COLUMNS, {"view": view})[1]]
        return [(row[1], str(row[2]).upper()) for row in self.rows(f"PRAGMA table_xinfo({view})")[1]]

    @property
    def _on_postgres(self) -> bool:
        return self._connection.dialect.name == "postgresql"

    def _ask(self, sql: str, parameters: Mapping[str, Any]) -> CursorResult[Any]:
        if self._on_postgres:
            return asking.ask(self._connection, sql, parameters, PAGE)
        return self._connection.exec_driver_sql(sql, dict(parameters))


@contextmanager
def _words(sql: str) -> Iterator[None]:
    """Within the block, what the asker's ``sql`` comes to is said in the database's words, and where it is no statement
    that reads, in the same ones whichever database it is."""
    try:
        yield
    # ValueError: SQL that is not UTF-8, which the driver raises before SQLite sees it.
    except (SQLAlchemyError, ValueError) as error:
        said = cause(error)
        if any(several in said for several in _SEVERAL):
            raise UsageError(f"{ONE_THAT_READS}, and there are several: ask one at a time") from error
        if (another := _ANOTHER.match(sql)) is not None:
            raise UsageError(f"{ONE_THAT_READS}, and {another[1].upper()} is none that does") from error
        if (of_postgres := asking.complaint(error)) is not None:
            raise UsageError(of_postgres) from error
        only = "; a query can only read, and no more than the database" if "not authorized" in said else ""
        raise UsageError(said + only) from error


ONE_THAT_READS = "a query is one statement that only reads"
_SEVERAL = ("execute one statement at a time", "cannot insert multiple commands")
_ANOTHER = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(ALTER|ANALYZE|ATTACH|BEGIN|CALL|CLUSTER|COMMENT|COMMIT|COPY|CREATE|DELETE|DETACH|DO|"
    r"DROP|END|GRANT|INSERT|LISTEN|LOCK|MERGE|NOTIFY|REFRESH|REINDEX|RELEASE|REPLACE|REVOKE|ROLLBACK|SAVEPOINT|SET|START|"
    r"TRUNCATE|UPDATE|VACUUM)\b",
    re.DOTALL | re.IGNORECASE,
)
"""How statements begin that do something else."""
