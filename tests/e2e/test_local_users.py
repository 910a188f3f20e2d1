"""Other users of the machine: what they can read of a server's files, and what a lock of theirs costs."""

import grp
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess
from tests.e2e.hostile.costs import HOLD_LOCK, HOLD_TRANSACTION, holding
from tests.e2e.unattacked import digests, honest_round, steps
from tests.nobody import as_nobody
from tests.nobody import public as public
from tests.patience import eventually

Join = Callable[..., list[Peer]]

NOBODYS = 65534  # a user, and a group
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

SHARED_FIRST, SHARED_SIZE = 2**30 + 2, 510


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


READ_ALL = """
for file in sorted(path.rglob("*")):
    if not file.is_dir():
        try:
            file.read_bytes()
            print("reads", file.name.partition("-0000")[0])
        except PermissionError:
            pass
try:
    print(len(Reader(path / "runs.sqlite").runs()), "run")
except (UsageError, PermissionError) as error:
    print("no run")
"""


def open_to_more(folder: Path) -> dict[str, str]:
    """The files and folders in ``folder`` that more may touch than their owner, and their group to read."""
    found = {place: stat.S_IMODE(place.lstat().st_mode) for place in folder.rglob("*")}
    return {place.name: oct(mode) for place, mode in found.items() if mode & 0o027}


@only_root
@pytest.mark.parametrize(("mask", "grouped"), [(0, False), (0o077, True)])
def test_what_a_server_makes_is_its_own_and_its_groups_to_read(public: Path, mask: int, grouped: bool) -> None:
    """Whatever the umask; while it runs, and what it leaves. Nobody reads it, but in the group that is named."""
    readers = ["runs.sqlite", "runs.sqlite-shm", "runs.sqlite-wal", "round", "round"]
    group = ("--group", grp.getgrgid(NOBODYS).gr_name) if grouped else ()
    with umask(mask):
        server = ServerProcess(public, "--num-rounds", "1", "--min-clients", "2", *group, *FAST)
    with server, ExitStack() as stack:
        peers = [stack.enter_context(Peer(server, client)).join() for client in ("a", "b")]
        models = [peer.model() for peer in peers]
        assert open_to_more(public) == {}
        assert {"runs.sqlite", "runs.sqlite-wal", "runs.sqlite-shm", "runs.sqlite.lock"} <= {
            p.name for p in public.iterdir()
        }
        said = as_nobody(READ_ALL, public)
        expected = [f"reads {name}" for name in readers[:-1]] if grouped else []
        assert sorted(said.splitlines()) == sorted([*expected, "1 run" if grouped else "no run"])
        for peer, model in zip(peers, models, strict=True):
            peer.upload(model)
        for peer in peers:
            peer.finished()
        assert server.exit_code() == 0
        assert "is open to more" not in server.log
    assert open_to_more(public) == {}
    said = as_nobody(READ_ALL, public)
    assert ("1 run" in said) == grouped, said


def wait_for_lines(server: ServerProcess, number: int, what: str) -> None:
    """Until as many lines of the log have it."""
    eventually(lambda: sum(what in line for line in server.lines) == number, lambda: server.log)


def test_a_lock_of_another_program_is_waited_for_and_nothing_becomes_visible_meanwhile(
    start: Start, join: Join, alone: list[str]
) -> None:
    server = start("--num-rounds", "4", "--min-clients", "2", *FAST)
    peers = join(server, "a", "b")
    index = f"{server.db}-shm"
    locks = [(HOLD_LOCK, index, 120, 1), (HOLD_LOCK, index, 120, 8), (HOLD_TRANSACTION, server.db)]
    for number, (code, *arguments) in enumerate(locks, 1):
        models = [peer.model() for peer in peers]
        with torch.no_grad():
            for model, step in zip(models, steps(number - 1), strict=True):
                for parameter in model.parameters():
                    parameter.add_(step)
        with holding(code, *arguments):
            for peer, model in zip(peers, models, strict=True):
                peer.upload(model)
            wait_for_lines(server, number, "is locked by another program")
            assert server.health()[0] == 200
            visible, _, _ = select.select([peer.connection for peer in peers], [], [], 0)
            assert visible == [], "a model before its round is on record"
    honest_round(*peers, len(locks))
    with holding(HOLD_LOCK, server.db, SHARED_FIRST, SHARED_SIZE):
        for peer in peers:
            peer.finished()
        assert server.exit_code() == 0
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 8)]
    assert server.sql("SELECT status, rounds_committed FROM v1_runs") == [("completed", 4)]
    assert digests(server) == alone[:5]
    assert "Traceback" not in server.log
