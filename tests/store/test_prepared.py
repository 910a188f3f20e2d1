"""Many rows go into few statements, and each arrives as it is."""

import math
from pathlib import Path

import pytest

from flserver.store import tables as t
from flserver.store.prepared import MOST_ROWS, changing, inserting
from flserver.store.sqlite import writing_engine
from tests.store.conftest import Ask
from tests.store.some_rows import METRIC, runs


@pytest.mark.parametrize("count", [1, 2, 3, MOST_ROWS - 1, MOST_ROWS, 2 * MOST_ROWS + 5])
def test_as_many_rows_as_there_are(database: Path, ask: Ask, count: int) -> None:
    changed = [{"num_rounds": 9 + n, "key_run_id": f"r{n}"} for n in range(count)]
    with writing_engine(database).begin() as connection:
        assert inserting(t.runs).run(connection, runs(count)) == count
        assert changing(t.runs, ("num_rounds",)).run(connection, changed) == count
    found = ask("SELECT run_id, num_rounds, config, name, model, ended_at FROM runs ORDER BY seed")
    assert found == [(f"r{n}", 9 + n, f'{{"n":{n}}}', r"\ud800", "é", None) for n in range(count)]


def test_a_row_that_is_not_there_or_is_set_is_not_changed(database: Path, ask: Ask) -> None:
    end = changing(t.runs, ("ended_at",), ("ended_at", "final_digest"))
    rows = [{"ended_at": "now", "key_run_id": run} for run in ("r0", "r1", "r7")]
    with writing_engine(database).begin() as connection:
        inserting(t.runs).run(connection, [runs(2)[0], runs(2)[1] | {"final_digest": "d"}])
        assert end.run(connection, rows) == 1
        assert end.run(connection, rows) == 0
    assert ask("SELECT run_id, ended_at FROM runs ORDER BY 1") == [("r0", "now"), ("r1", None)]


def test_the_last_of_several_with_one_key_stands(database: Path, ask: Ask) -> None:
    with writing_engine(database).begin() as connection:
        inserting(t.runs).run(connection, [runs(1)[0] | {"run_id": "r"}])
        put = inserting(t.round_metrics, or_update=True)
        put.run(connection, [METRIC, METRIC | {"value": math.nan}, METRIC | {"value": 2}])
        put.run(connection, [METRIC | {"value": 3.5}, METRIC | {"name": "a", "value": math.inf}])
    assert ask("SELECT name, value FROM round_metrics ORDER BY 1") == [("a", None), ("loss", 3.5)]
