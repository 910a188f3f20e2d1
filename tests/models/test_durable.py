"""Files go past the page cache: the same bytes, as durable, and by way of the cache where the system refuses."""

import errno
import fcntl
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flserver.files import create
from flserver.models import durable
from flserver.models.durable import write_durably, write_file

SECTOR = 4096
BLOCK = 4 * SECTOR
PIECES = (1, 7, SECTOR, 0, BLOCK + 13, 3 * BLOCK, 5)


def pieces(*sizes: int) -> list[bytes]:
    return [bytes((place + number) % 251 for number in range(size)) for place, size in enumerate(sizes)]


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that is to be written in small blocks."""
    monkeypatch.setattr(durable, "BLOCK", BLOCK)
    return tmp_path / "file"


@pytest.fixture
def past(path: Path) -> Path:
    """The same, where that can be past the page cache."""
    try:
        os.close(os.open(path.with_name("probe"), os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("the temporary folder's file system writes nothing past the page cache")
    return path


class Calls:
    """What is asked of the system, in order: ``write`` and whether past the cache, ``fsync``, ``close``; ``failing``
    may raise in place of a call, of which it is given the number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: Callable[[str, int], None] | None = None) -> None:
        self.names: list[str] = []
        self.failed = 0
        for name in ("write", "fsync", "close"):
            monkeypatch.setattr(os, name, self.noted(name, getattr(os, name), failing))

    def noted(
        self, name: str, real: Callable[..., object], failing: Callable[[str, int], None] | None
    ) -> Callable[..., object]:
        def call(file: int, *arguments: object) -> object:
            past = name == "write" and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT
            self.names.append("write past" if past else name)
            try:
                if failing is not None:
                    failing(self.names[-1], self.names.count(self.names[-1]))
                return real(file, *arguments)
            except OSError:
                self.failed += 1
                raise

        return call


@pytest.mark.parametrize(
    "sizes",
    [(), (0,), (1,), (BLOCK - 1,), (BLOCK,), (BLOCK + 1,), (BLOCK - 1, 2), (5 * BLOCK,), PIECES, tuple(range(200))],
)
def test_every_length_in_whatever_pieces(past: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]) -> None:
    calls = Calls(monkeypatch)
    write_durably(create(past), pieces(*sizes))
    assert past.read_bytes() == b"".join(pieces(*sizes))
    whole, rest = divmod(sum(sizes), BLOCK)
    assert calls.names == ["write past"] * whole + ["write"] * bool(rest) + ["fsync", "close"]
    assert not calls.failed


def test_blocks_are_as_long_as_every_disk_takes_them() -> None:
    assert durable.PAST_THE_CACHE == os.O_DIRECT
    assert durable.BLOCK % (1 << 16) == 0


def test_no_more_than_one_piece_is_needed_at_a_time(path: Path) -> None:
    """A tensor that is not contiguous is copied for its piece: all copies at once are another model."""
    there: list[weakref.ref[np.ndarray]] = []

    def made() -> Iterator[memoryview]:
        for number in range(10):
            assert sum(one() is not None for one in there) <= 1, "the last one, which is not let go yet"
            array = np.full(BLOCK, number, np.uint8)
            there.append(weakref.ref(array))
            yield memoryview(array)
            del array

    write_durably(create(path), made())
    assert path.read_bytes() == b"".join(bytes([number]) * BLOCK for number in range(10))


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("block", [1, 3, 4])
def test_what_a_file_system_refuses_goes_on_by_way_of_the_cache(
    past: Path, monkeypatch: pytest.MonkeyPatch, block: int, refusal: int
) -> None:
    def refuse(name: str, number: int) -> None:
        if (name, number) == ("write past", block):
            raise OSError(refusal, os.strerror(refusal))

    calls = Calls(monkeypatch, refuse)
    write_durably(create(past), pieces(*PIECES))
    assert past.read_bytes() == b"".join(pieces(*PIECES))
    assert calls.names == ["write past"] * block + ["write"] * (6 - block) + ["fsync", "close"]


def test_one_that_cannot_be_turned_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def refused(file: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(file, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refused)
    calls = Calls(monkeypatch)
    write_durably(create(path), pieces(*PIECES))
    assert path.read_bytes() == b"".join(pieces(*PIECES))
    assert "write past" not in calls.names


def test_a_system_that_has_no_such_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "PAST_THE_CACHE", 0)
    calls = Calls(monkeypatch)
    write_durably(create(path), pieces(*PIECES))
    assert path.read_bytes() == b"".join(pieces(*PIECES))
    assert "write past" not in calls.names


@pytest.mark.parametrize("taken", [SECTOR, 100])
def test_a_block_that_the_system_takes_in_part(past: Path, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    """Also one that ends where the rest cannot be gone on from past the cache."""
    real, takes = os.write, iter((BLOCK, taken))

    def short(file: int, block: memoryview) -> int:
        if (count := next(takes, len(block))) % SECTOR:
            fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) & ~os.O_DIRECT)
            done = real(file, block[:count])
            fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)
            return done
        return real(file, block[:count])

    monkeypatch.setattr(os, "write", short)
    write_durably(create(past), pieces(*PIECES))
    assert past.read_bytes() == b"".join(pieces(*PIECES))


@pytest.mark.parametrize("name", ["write past", "write", "fsync"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_told_and_the_file_has_no_name(
    past: Path, monkeypatch: pytest.MonkeyPatch, name: str, failure: int
) -> None:
    def fail(called: str, number: int) -> None:
        if called == name:
            raise OSError(failure, os.strerror(failure))

    calls = Calls(monkeypatch, fail)
    with pytest.raises(OSError, match=os.strerror(failure)):
        write_file(past.with_name("partial"), past, pieces(*PIECES))
    assert calls.names.count(name) == 1, "not tried again"
    assert calls.names[-1] == "close"
    assert calls.names.count("fsync") == (name == "fsync")
    assert not past.exists()
