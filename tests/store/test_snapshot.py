"""A reader whose answers are all of one moment."""

from contextlib import closing
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.snapshot import snapshot
from flserver.store.writer import Writer
from tests.store import story

RUNS = "SELECT COUNT(*) FROM v1_runs"


def test_what_is_written_meanwhile_is_not_in_it_and_nobody_waits_for_it(tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    writer = Writer(db, run_id="one", process_id=1)
    writer.start(**story.QUIET)
    with closing(writer):
        writer.emit(story.started("one", 1)[0])
        writer.flush()
        with snapshot(db) as reader:
            assert reader.query(RUNS)[1] == [(1,)]
            writer.emit(story.started("two", 1)[0])
            writer.flush()
            assert Reader(db).query(RUNS)[1] == [(2,)]
            assert reader.query(RUNS)[1] == [(1,)]
            assert len(reader.runs()) == 1
        with snapshot(db) as reader:
            assert reader.query(RUNS)[1] == [(2,)]


def test_it_can_only_read_and_goes_on_after_an_error(tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    with snapshot(db) as reader:
        for sql in ("DELETE FROM events", "SELECT nothing", "ATTACH 'x' AS y"):
            with pytest.raises(UsageError):
                reader.query(sql)
        assert reader.query(RUNS)[1] == [(0,)]


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no database"), snapshot(tmp_path / "none"):
        pass
    (tmp_path / "text").write_text("no database")
    with pytest.raises(UsageError, match="cannot be read"), snapshot(tmp_path / "text"):
        pass
