"""Long files go past the page cache: the same bytes, as durable, and by way of the cache where the system refuses."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flserver.files import create
from flserver.models import durable
from flserver.models.durable import ALIGNED, write_durably, write_file

BLOCK = 4 * ALIGNED
PIECES = (1, 7, ALIGNED, 0, BLOCK + 13, 3 * BLOCK, 5)


def pieces(*sizes: int) -> list[bytes]:
    return [bytes((place + number) % 251 for number in range(size)) for place, size in enumerate(sizes)]


def disk_takes_it(folder: Path) -> bool:
    try:
        os.close(os.open(folder / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that is to be written so, whatever its length, in small blocks."""
    if not disk_takes_it(tmp_path):
        pytest.skip("the temporary folder's file system writes nothing past the page cache")
    monkeypatch.setattr(durable, "PAST_THE_CACHE", 1)
    monkeypatch.setattr(durable, "BLOCK", BLOCK)
    return tmp_path / "file"


class Calls:
    """What is asked of the system, in order; ``failing`` may raise in place of a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: Callable[[str], None] = lambda name: None) -> None:
        self.names: list[str] = []
        self.direct: set[bool] = set()  # whether pwrite was called so
        self.failing = failing
        for name in ("pwrite", "write", "ftruncate", "fsync"):
            monkeypatch.setattr(os, name, self.noted(name, getattr(os, name)))

    def noted(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(file: int, *arguments: object) -> object:
            self.names.append(name)
            if name == "pwrite":
                self.direct.add(bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT))
            self.failing(name)
            return real(file, *arguments)

        return call


@pytest.mark.parametrize(
    "sizes",
    [
        (1,),
        (ALIGNED - 1,),
        (ALIGNED,),
        (ALIGNED + 1,),
        (BLOCK,),
        (BLOCK - 1, 2),
        (5 * BLOCK,),
        PIECES,
        tuple(range(200)),
    ],
)
def test_every_length_in_whatever_pieces(past: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]) -> None:
    calls = Calls(monkeypatch)
    write_durably(create(past), pieces(*sizes))
    assert past.read_bytes() == b"".join(pieces(*sizes))
    assert calls.direct == {True}
    assert "write" not in calls.names
    assert calls.names.count("pwrite") == -(-sum(sizes) // BLOCK)
    assert calls.names[-2:] == ["ftruncate", "fsync"], "durable as a whole, and as long as it is"


def test_shorter_ones_are_left_to_the_cache(past: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "PAST_THE_CACHE", sum(PIECES) + 1)
    calls = Calls(monkeypatch)
    write_durably(create(past), pieces(*PIECES))
    assert past.read_bytes() == b"".join(pieces(*PIECES))
    assert "pwrite" not in calls.names


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("after", [0, 3])
def test_what_a_file_system_refuses_goes_by_way_of_the_cache(
    past: Path, monkeypatch: pytest.MonkeyPatch, after: int, refusal: int
) -> None:
    def fail(called: str) -> None:
        if called == "pwrite" and calls.names.count("pwrite") > after:
            raise OSError(refusal, os.strerror(refusal))

    calls = Calls(monkeypatch, fail)
    write_durably(create(past), pieces(*PIECES))
    assert past.read_bytes() == b"".join(pieces(*PIECES))
    assert calls.names[-1] == "fsync"
    assert "write" in calls.names


def test_one_that_cannot_be_opened_so(past: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def refused(file: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(file, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refused)
    write_durably(create(past), pieces(*PIECES))
    assert past.read_bytes() == b"".join(pieces(*PIECES))


def test_a_block_that_the_system_takes_in_part(past: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, takes = os.pwrite, iter((ALIGNED, 100))

    def short(file: int, block: memoryview, at: int) -> int:
        return real(file, bytes(block)[: next(takes, len(block))], at)

    monkeypatch.setattr(os, "pwrite", short)
    write_durably(create(past), pieces(*PIECES))
    assert past.read_bytes() == b"".join(pieces(*PIECES))


@pytest.mark.parametrize("name", ["pwrite", "ftruncate", "fsync"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_told_and_the_file_has_no_name(
    past: Path, monkeypatch: pytest.MonkeyPatch, name: str, failure: int
) -> None:
    def fail(called: str) -> None:
        if called == name:
            raise OSError(failure, os.strerror(failure))

    calls = Calls(monkeypatch, fail)
    with pytest.raises(OSError, match=os.strerror(failure)):
        write_file(past.with_name("partial"), past, pieces(*PIECES))
    assert "write" not in calls.names, "not tried again"
    assert calls.names.count("fsync") == (name == "fsync")
    assert not past.exists()
