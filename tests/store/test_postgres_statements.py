"""Rows get into PostgreSQL as they are, and those that are changed are found by their keys."""

import math
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Table, text

from flserver.settings.places import Address
from flserver.store import tables as t
from flserver.store.prepared import changing, inserting
from tests.store.some_rows import METRIC, runs

pytestmark = pytest.mark.postgres

ODD = 'it\'s "\\n" {\\u0041} é \x01\n\t\u2028 \ud800'


@pytest.fixture
def connection(address: Address) -> Iterator[Connection]:
    """A transaction as the writer has them; it is undone."""
    from flserver.store.postgres.lock import PostgresLock

    class Undo(Exception):
        """Nothing of it stays."""

    with PostgresLock(address) as lock:
        try:
            with lock.session.transaction() as connection:
                yield connection
                raise Undo
        except Undo:
            pass


@pytest.mark.parametrize("count", [1, 2, 65])
def test_as_many_rows_as_there_are(connection: Connection, count: int) -> None:
    changed = [{"num_rounds": 2**60 + n, "model": ODD, "key_run_id": f"r{n}"} for n in range(count)]
    assert inserting(t.runs).run(connection, runs(count)) == count
    assert changing(t.runs, ("num_rounds", "model")).run(connection, changed) == count
    found = connection.execute(text("SELECT run_id, num_rounds, model, ended_at FROM runs ORDER BY seed")).all()
    kept = ODD.replace("\ud800", r"\ud800")
    assert [tuple(row) for row in found] == [(f"r{n}", 2**60 + n, kept, None) for n in range(count)]


def test_a_row_that_is_not_there_or_is_set_is_not_changed(connection: Connection) -> None:
    end = changing(t.runs, ("ended_at",), ("ended_at", "final_digest"))
    rows = [{"ended_at": "now", "key_run_id": run} for run in ("r0", "r1", "r7")]
    inserting(t.runs).run(connection, [runs(2)[0], runs(2)[1] | {"final_digest": "d"}])
    assert end.run(connection, rows) == 1
    assert end.run(connection, rows) == 0
    assert end.run(connection, []) == 0


def test_the_last_of_several_with_one_key_stands(connection: Connection) -> None:
    inserting(t.runs).run(connection, [runs(1)[0] | {"run_id": "r"}])
    put = inserting(t.round_metrics, or_update=True)
    put.run(connection, [METRIC, METRIC | {"value": math.nan}, METRIC | {"value": 2}])
    put.run(connection, [METRIC | {"value": 0.1 + 0.2}, METRIC | {"name": "a", "value": math.inf}])
    put.run(connection, [METRIC | {"name": "b", "value": 5e-324}, METRIC | {"name": "c", "value": 1}])
    found = connection.execute(text("SELECT name, value FROM round_metrics ORDER BY 1")).all()
    assert [tuple(row) for row in found] == [("a", None), ("b", 5e-324), ("c", 1.0), ("loss", 0.1 + 0.2)]


@pytest.mark.parametrize("table", [table for table in t.DERIVED if set(table.c) - set(table.primary_key)], ids=str)
def test_what_is_changed_is_found_by_its_whole_key_in_a_table_that_is_new(connection: Connection, table: Table) -> None:
    """A plan that was made before there were statistics stays, while the table grows."""
    from flserver.store.postgres.statements import statement

    keys = [key.name for key in table.primary_key]
    other = next(column.name for column in table.c if not column.primary_key)
    said = statement(changing(table, (other,)).what).decode()
    values = range(1, len(keys) + 2)
    for number in values:
        said = said.replace("%s", f"${number}", 1)
    given = ", ".join(["NULL"] * len(values))
    for one in ("SET LOCAL plan_cache_mode = force_generic_plan", f"PREPARE change AS {said}"):
        connection.exec_driver_sql(one)
    plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN EXECUTE change({given})").scalars())
    connection.exec_driver_sql("DEALLOCATE change")
    found = re.search("Index Cond: (.*)", plan)
    assert found, plan
    assert all(f"{key} = $" in found[1] for key in keys), plan
