"""A full, broken or read-only disk: the server stops at once, says what to do, and goes on when that is done."""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import Start
from tests.e2e.disks import BrokenDisk, SmallDisk, breakable, cannot_mount, make_read_only, make_writable, own_mounts
from tests.e2e.harness import FAST, Peer, ServerProcess

Join = Callable[..., list[Peer]]
WHY_NOT = cannot_mount() or (None if shutil.which("cc") else "no C compiler (cc)")
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture(scope="module", autouse=True)
def _disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_mounts(), breakable(tmp_path_factory.mktemp("library")):
        yield


@pytest.fixture
def broken(tmp_path: Path) -> BrokenDisk:
    return BrokenDisk(tmp_path)


class Fault(NamedTuple):
    """A ``call`` that fails with the error ``number`` on files with ``on`` in their name, and what is ``said`` then."""

    call: str
    on: str
    number: int
    said: str


def failed_once(server: ServerProcess, *parts: str) -> None:
    """The server ended with 1 and one line that has the ``parts``, after which stands how to go on."""
    assert server.exit_code() == 1, server.log
    (line,) = [line for line in server.lines if " ERROR failed: " in line]
    for part in parts:
        assert part in line
    assert "when that is mended, to go on: " in server.lines[-1]
    assert "Traceback" not in server.log


def goes_on(start: Start, join: Join, rounds: int, *options: str, env: dict[str, str] | None = None) -> ServerProcess:
    """A resumed server makes all rounds up to ``rounds``, each once, and everything has its decision."""
    resumed = start("--resume", "--num-rounds", str(rounds), "--time-to-wait", "0.3", *options, env=env)
    (a,) = join(resumed, "a")
    while (message := a.message())["header"] == "<MODEL>":
        a.upload(message["model"])
    assert resumed.exit_code() == 0, resumed.log
    committed = resumed.sql("SELECT round FROM v1_rounds WHERE status = 'committed' ORDER BY round")
    assert committed == [(round,) for round in range(rounds + 1)]
    assert resumed.sql("SELECT COUNT(*) FROM v1_updates WHERE decision IS NULL") == [(0,)]
    return resumed


def meets(start: Start, join: Join, broken: BrokenDisk, fault: Fault) -> ServerProcess:
    """A server that goes on, and whose disk fails in the second round after the start."""
    server = start("--resume", "--run-name", "ward", "--num-rounds", "99", *FAST, env=broken.env)
    (a,) = join(server, "a")
    a.answer(0.5)
    model = a.model()
    ((run,),) = server.sql("SELECT run_id FROM v1_runs")
    before = len(broken.failures)
    broken.fails(fault.call, fault.on.format(run=run), fault.number)
    with contextlib.suppress(OSError):
        a.upload(model)
    a.stopped()
    failed_once(server, fault.said, " MiB free")
    assert len(broken.failures) == before + 1, "what failed is not tried again"
    broken.mended()
    return server


RECORD = (
    Fault("write", "-wal", errno.ENOSPC, "database or disk is full (SQLITE_FULL; "),
    Fault("write", "-wal", errno.EIO, "disk I/O error (SQLITE_IOERR_WRITE; "),
    Fault("sync", "-wal", errno.EIO, "disk I/O error (SQLITE_IOERR_FSYNC; "),
)


def test_where_the_record_cannot_be_written_the_server_stops_and_goes_on_later(
    start: Start, join: Join, broken: BrokenDisk
) -> None:
    for fault in RECORD:
        server = meets(start, join, broken, fault)
        assert "the record cannot be written: " in server.log
    ((last,),) = server.sql("SELECT MAX(round) FROM v1_rounds WHERE status = 'committed'")
    assert last >= len(RECORD)
    goes_on(start, join, last + 1)


MAIN = (
    Fault("write", "/runs.sqlite$", errno.EIO, "disk I/O error (SQLITE_IOERR_WRITE; "),
    Fault("sync", "/runs.sqlite$", errno.EIO, "disk I/O error (SQLITE_IOERR_FSYNC; "),
)


def test_where_the_database_itself_cannot_be_written_all_is_in_the_wal_and_goes_there_later(
    start: Start, join: Join, broken: BrokenDisk
) -> None:
    """SQLite writes it when the WAL is long, at a stop and at a start. What failed is written anew from the WAL."""
    rounds = 0
    for fault in MAIN:
        server = start("--resume", "--num-rounds", "999", "--stop-grace", "0", *FAST, env=broken.env)
        (a,) = join(server, "a")
        broken.fails(fault.call, fault.on, fault.number)
        before, first = len(broken.failures), True
        while first or (fault.call == "write" and len(broken.failures) == before):  # in the midst of rounds: they go on
            a.answer(0.5)
            rounds, first = rounds + 1, False
        a.model()
        assert server.terminate() == 3, server.log
        assert len(broken.failures) > before
        assert f"the end of the record stays in {server.db}-wal, which belongs to it: " in server.log
        assert fault.said in server.log
        before = len(broken.failures)
        refused = start("--resume", "--num-rounds", "999", *FAST, env=broken.env)
        assert refused.exit_code() == 1, refused.log
        assert refused.lines[-1].endswith(f"{server.db} cannot be opened for writing: disk I/O error")
        assert len(broken.failures) == before + 1, "what failed is not tried again by this process"
        broken.mended()
    broken.fails("read", "/runs.sqlite$")
    refused = start("--resume", env=broken.env)
    assert refused.exit_code() == 2, refused.log
    assert refused.lines[-1].endswith(f"{server.db} cannot be used as a database: disk I/O error")
    broken.mended()
    goes_on(start, join, rounds + 1)


CHECKPOINT = (
    Fault("write", ".partial", errno.ENOSPC, "No space left on device"),
    Fault("write", ".partial", errno.EIO, "Input/output error"),
    Fault("sync", ".partial", errno.EIO, "Input/output error"),
    Fault("rename", ".safetensors", errno.EIO, "Input/output error"),
    Fault("sync", "checkpoints/{run}", errno.EIO, "Input/output error"),
)


def test_where_a_checkpoint_cannot_be_written_its_round_is_not_committed_and_is_made_later(
    start: Start, join: Join, broken: BrokenDisk
) -> None:
    for number, fault in enumerate(CHECKPOINT, 2):
        server = meets(start, join, broken, fault)
        assert f"the checkpoint of round {number} cannot be written: " in server.log
        assert server.sql("SELECT status FROM v1_runs") == [("failed",)]
        ends = server.sql("SELECT status FROM v1_rounds WHERE round = ? ORDER BY attempt", number)
        assert ends[-1] == ("aborted",)
    goes_on(start, join, number)
    assert list(server.db.parent.glob("runs.sqlite.checkpoints/*/.round-*")) == []


def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(start: Start, join: Join, tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "checkpoints")
    server = start("--num-rounds", "9", "--checkpoint-dir", str(disk.folder), *FAST)
    (a,) = join(server, "a")
    a.answer(0.5)
    model = a.model()
    disk.fill()
    a.upload(model)
    a.stopped()
    failed_once(server, f"{disk.folder}/", "No space left on device (0.0 MiB free)")
    again = start("--resume")
    assert again.exit_code() == 2
    assert "0 B free" in again.lines[-1] or "need about" in again.lines[-1], again.log
    disk.make_room()
    goes_on(start, join, 3)


def test_a_full_disk_under_the_database_ends_the_run_and_with_room_it_goes_on(
    start: Start, join: Join, tmp_path: Path
) -> None:
    disk = SmallDisk(tmp_path / "small")
    for end in ("", "-wal"):
        (tmp_path / f"runs.sqlite{end}").symlink_to(disk.folder / f"runs.sqlite{end}")
    (tmp_path / "runs.sqlite-wal").unlink()
    server = start("--num-rounds", "9", "--checkpoint-dir", str(tmp_path / "checkpoints"), *FAST)
    (a,) = join(server, "a")
    a.answer(0.5)
    model = a.model()
    disk.fill()
    with contextlib.suppress(OSError):
        a.upload(model)  # what the WAL has of its last block is used up before long
        while (message := a.message())["header"] == "<MODEL>":
            a.upload(message["model"])
    failed_once(server, "the record cannot be written: ", "SQLITE_FULL", "0.0 MiB free")
    disk.make_room()
    goes_on(start, join, 9)


def test_a_folder_that_becomes_read_only_ends_the_run_and_is_said_at_a_start(
    start: Start, join: Join, tmp_path: Path
) -> None:
    server = start("--num-rounds", "9", *FAST)
    (a,) = join(server, "a")
    a.answer(0.5)
    model = a.model()
    folder = tmp_path / "runs.sqlite.checkpoints"
    make_read_only(folder)
    a.upload(model)
    a.stopped()
    failed_once(server, "the checkpoint of round 2 cannot be written: ", "Read-only file system")
    again = start("--resume")
    assert again.exit_code() == 2
    assert "cannot be written" in again.lines[-1]
    make_writable(folder)
    goes_on(start, join, 3)
    make_read_only(tmp_path)
    refused = start("--resume", "--num-rounds", "4")
    assert refused.exit_code() == 2, refused.log
    assert "Read-only file system" in refused.lines[-1] or "cannot be written" in refused.lines[-1]
    make_writable(tmp_path)
