"""Statements compiled once, and run for many rows at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.types import TypeDecorator

from flserver.store.sqlite import DIALECT


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement as the driver has it. ``names`` are its parameters' in their order, ``convert`` what makes of a value
    at that place what the column's type holds."""

    sql: str
    names: tuple[str, ...]
    convert: tuple[tuple[int, Callable[[Any, Any], Any]], ...]

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it for each of ``rows``, which have its parameters by name; what is not there is NULL. Returns how many
        rows of the table it inserted or changed."""
        return connection.exec_driver_sql(self.sql, [self._values(row) for row in rows]).rowcount

    def _values(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        values = list(map(row.get, self.names))
        for place, convert in self.convert:
            values[place] = convert(values[place], DIALECT)
        return tuple(values)


def prepare(statement: UpdateBase) -> Prepared:
    """Compile an INSERT or UPDATE whose values are all parameters."""
    compiled = statement.compile(dialect=DIALECT)
    names = tuple(compiled.positiontup or ())
    types = [compiled.binds[name].type for name in names]
    convert = [(at, kind.process_bind_param) for at, kind in enumerate(types) if isinstance(kind, TypeDecorator)]
    return Prepared(str(compiled), names, tuple(convert))
