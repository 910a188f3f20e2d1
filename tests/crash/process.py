"""A server process that is forked warm, is watched, and may be killed before any of its operations."""

import gc
import mmap
import os
import re
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import dump, load
from typing import Any

from tests.crash.operations import Kind, Operation, watch

Patch = Callable[[], object]
OPTIONS = ("--run-name", "sweep", "--num-rounds", "4", "--seed", "11", "--keep-checkpoints", "2")
CLIENTS = ("--min-clients", "4", "--min-updates", "2", "--time-to-wait", "0.02", "--rejoin-timeout", "3600")
PLACE = ("--server-port", "0", "--metrics-port", "0", "--use-cuda", "False")
PORT = re.compile(r"listening for trainers on .*:(\d+)")


@dataclass(frozen=True, order=True)
class Point:
    """Before the ``number``-th operation of its ``kind``, counted from 1: of a run that begins, or of one that is
    ``resumed``."""

    kind: Kind
    number: int
    resumed: bool = False

    def __str__(self) -> str:
        return f"{'resumed, ' if self.resumed else ''}{self.kind} {self.number}"


class Server:
    """``flserver --resume`` on the database in ``folder``, or as the ``arguments`` say; ``kill_at`` is where it is
    killed, ``record`` the file that its operations go to, ``patch`` what is done to it before, and ``first`` what is
    done before anything is watched."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        kill_at: Point | None = None,
        record: Path | None = None,
        patch: Patch | None = None,
        first: Patch | None = None,
    ) -> None:
        arguments = arguments or ("--db", str(folder / "runs.sqlite"), "--resume")
        self._done = mmap.mmap(-1, 8)
        self.code: int | None = None
        self._read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._read)
                os.dup2(write, 2)
                if first is not None:
                    first()
                code = _serve(folder, arguments, kill_at, record, patch, self._done)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(write)
        self._log = os.fdopen(self._read, encoding="utf-8")
        self.lines: list[str] = []

    @property
    def done(self) -> int:
        """How many operations it has done and recorded so far."""
        return int.from_bytes(self._done[:8], "little")

    def port(self) -> int | None:
        """Where it listens, once it does; None where it ends before."""
        found = self.said(PORT)
        return None if found is None else int(found[1])

    def said(self, what: re.Pattern[str]) -> re.Match[str] | None:
        """The next of its lines that matches, once it has come; None where it ends before."""
        for line in self._log:
            self.lines.append(line)
            if found := what.search(line):
                return found
        return None

    def end(self) -> int:
        """Wait for its end. The exit code, minus the signal's number where one ended it."""
        if self.code is None:
            self.lines += self._log
            self._log.close()
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._done.close()
        return self.code

    def kill(self) -> None:
        """End it, where it has not ended."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.end()

    @property
    def log(self) -> str:
        """What it said."""
        return "".join(self.lines)


@contextmanager
def serving(folder: Path, *arguments: str, **options: Any) -> Iterator[Server]:
    """A server, which is gone after the block."""
    server = Server(folder, *arguments, **options)
    try:
        yield server
    finally:
        server.kill()


def _serve(
    folder: Path,
    arguments: Sequence[str],
    kill_at: Point | None,
    record: Path | None,
    patch: Patch | None,
    done: mmap.mmap,
) -> int:
    counts: Counter[Kind] = Counter()
    log = None if record is None else record.open("wb")

    def before(operation: Operation) -> None:
        counts[operation.kind] += 1
        if kill_at is not None and kill_at.kind == operation.kind and counts[operation.kind] == kill_at.number:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(operation: Operation) -> None:
        if log is not None:
            dump(operation, log)
            done[:8] = (int.from_bytes(done[:8], "little") + 1).to_bytes(8, "little")

    if kill_at is not None or log is not None:
        watch(folder, before, after)
    if patch is not None:
        patch()
    from flserver.cli.main import run_cli

    code = run_cli([*OPTIONS, *CLIENTS, *PLACE, *arguments])
    if log is not None:
        log.close()
    return code


def recorded(record: Path) -> list[Operation]:
    """The operations of a server that has ended."""
    operations = []
    with record.open("rb") as file:
        while True:
            try:
                operations.append(load(file))
            except EOFError:
                return operations


def warm_up() -> None:
    """Import all that a server does, and load the kernel: what is forked begins with it."""
    import importlib
    import pkgutil

    import torch

    torch.set_num_threads(1)
    for name in ("torchvision", "alembic.command", "alembic.runtime.environment", "prometheus_client"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(importlib.import_module("flserver").__path__, "flserver."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from flserver.aggregation import kernel

    kernel.load()
    gc.collect()
    gc.freeze()  # or each server's search for garbage would touch, and so copy, all of it
