"""What a power loss may leave of files, by the model that the sweep uses."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.crash.disk import SECTOR, Disk, contents
from tests.crash.operations import Operation


def left(folder: Path, operations: Iterable[Operation], *, kept: bool) -> dict[str, bytes]:
    """The files after a power loss, where all that is not certain is there, or nothing of it."""
    place = folder / f"{len(list(folder.iterdir()))}"
    place.mkdir()
    Disk(operations).leave(place, lambda: kept)
    return contents(place)


WRITTEN = [Operation("create", "a"), Operation("write", "a", 0, b"old")]
DURABLE = [*WRITTEN, Operation("fsync", "a"), Operation("fsync", ".")]


def test_what_was_synced_stays_and_what_was_not_may_be_gone(tmp_path: Path) -> None:
    assert left(tmp_path, DURABLE, kept=False) == {"a": b"old"}
    changed = [*DURABLE, Operation("write", "a", 1, b"NEWER")]
    assert left(tmp_path, changed, kept=False) == {"a": b"old"}
    assert left(tmp_path, changed, kept=True) == {"a": b"oNEWER"}
    cut = [*DURABLE, Operation("truncate", "a", 1)]
    assert [left(tmp_path, cut, kept=kept) for kept in (False, True)] == [{"a": b"old"}, {"a": b"o"}]


@pytest.mark.parametrize(("synced", "expected"), [("a", {}), (".", {"a": b""})])
def test_a_file_needs_its_own_fsync_and_its_folders(tmp_path: Path, synced: str, expected: dict[str, bytes]) -> None:
    assert left(tmp_path, [*WRITTEN, Operation("fsync", synced)], kept=False) == expected


def test_a_name_changes_as_a_whole_once_its_folder_is_synced(tmp_path: Path) -> None:
    renamed = [*DURABLE, Operation("rename", "a", target="b")]
    assert [left(tmp_path, renamed, kept=kept) for kept in (False, True)] == [{"a": b"old"}, {"b": b"old"}]
    gone = [*DURABLE, Operation("unlink", "a")]
    assert [left(tmp_path, gone, kept=kept) for kept in (False, True)] == [{"a": b"old"}, {}]
    assert left(tmp_path, [*gone, Operation("fsync", ".")], kept=False) == {}


def test_a_folder_that_is_not_durable_takes_its_files_with_it(tmp_path: Path) -> None:
    inside = [Operation("mkdir", "f"), Operation("create", "f/a"), Operation("fsync", "f/a"), Operation("fsync", "f")]
    assert left(tmp_path, inside, kept=False) == {}
    assert left(tmp_path, [*inside, Operation("fsync", ".")], kept=False) == {"f/a": b""}


def test_a_write_may_be_there_by_sectors(tmp_path: Path) -> None:
    disk, turns = Disk([*DURABLE, Operation("write", "a", 0, b"n" * 2 * SECTOR)]), iter((False, True))
    disk.leave(tmp_path, lambda: next(turns))
    assert (tmp_path / "a").read_bytes() == b"old" + bytes(SECTOR - 3) + b"n" * SECTOR
