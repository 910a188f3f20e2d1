"""The Python programs that tests start: forked from a process that has imported torch, its like and this checkout once.

An import of torch takes two seconds of a processor, and tests start some five hundred programs that need it. A forked
one does what ``python -m NAME`` or ``python FILE`` does, in a process of its own with its own folder, environment and
pipes, and ends as Python ends. ``forker.py`` forks; without one, ``start`` starts Python.
"""

import contextlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flserver.clock import Deadline
from tests.patience import PATIENCE

FORKER = Path(__file__).with_name("forker.py")
LARGEST = 1 << 17  # bytes of a message: a command line and an environment


class WarmProcess:
    """As ``subprocess.Popen``, as far as tests use that."""

    def __init__(self, forker: "Forker", pid: int, stdout: int | None, stderr: int | None) -> None:
        self._forker = forker
        self.pid = pid
        self.returncode: int | None = None
        self.stdout = None if stdout is None else os.fdopen(stdout, encoding="utf-8")
        self.stderr = None if stderr is None else os.fdopen(stderr, encoding="utf-8")

    def __enter__(self) -> "WarmProcess":
        return self

    def __exit__(self, *_: object) -> None:
        """Its pipes are closed, and it has ended."""
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()

    def poll(self) -> int | None:
        """The exit code, if it has ended: minus the signal's number where one ended it."""
        return self._ended(Deadline.after(0))

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended. Raises subprocess.TimeoutExpired."""
        code = self._ended(Deadline.after(threading.TIMEOUT_MAX if timeout is None else timeout))
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def _ended(self, deadline: Deadline) -> int | None:
        if self.returncode is None:
            self.returncode = self._forker.status(self.pid, deadline)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing where it has ended, also where that is not known here yet: the forker has waited for it."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it prints, and its end. Raises subprocess.TimeoutExpired."""
        assert self.stdout is not None
        deadline, said = Deadline.after(threading.TIMEOUT_MAX if timeout is None else timeout), io.BytesIO()
        with self.stdout:
            while True:
                if not select.select([self.stdout], [], [], min(deadline.remaining(), 3600))[0]:
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0, said.getvalue())
                if not (part := os.read(self.stdout.fileno(), 1 << 16)):
                    break
                said.write(part)
        self.wait(deadline.remaining())
        return said.getvalue().decode(), None


class Forker:
    """Where warm processes come from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what is read from the socket, and what is known from that
        self._ended: dict[int, int] = {}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(FORKER), str(theirs.fileno())],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        """End it; its children are their owners'."""
        self._socket.close()
        self._process.wait()

    def start(
        self,
        program: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> WarmProcess:
        """Start ``-m NAME …`` or ``FILE …``. The three are as Popen's."""
        request = {"program": list(program), "cwd": str(cwd), "env": dict(env)}
        with contextlib.ExitStack() as stack:
            out, read_out = _end(stack, stdout, 1)
            err, read_err = (out, None) if stderr == subprocess.STDOUT else _end(stack, stderr, 2)
            streams = [_end(stack, stdin, 0)[0], out, err]
            with self._lock:
                socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
                while (told := self._read())[0] != "started":
                    pass
        return WarmProcess(self, told[1], read_out, read_err)

    def status(self, pid: int, deadline: Deadline) -> int | None:
        """How a process ended; None where it has not at the deadline."""
        while True:
            with self._lock:
                while pid not in self._ended and select.select([self._socket], [], [], 0)[0]:
                    self._read()
                if pid in self._ended:
                    return self._ended[pid]
            if deadline.passed:
                return None
            # Whoever reads what has come tells nobody, so the others look again before long.
            select.select([self._socket], [], [], min(deadline.remaining(), 0.05))

    def _read(self) -> list[Any]:
        """The next message. With the lock."""
        told: list[Any] = json.loads(self._socket.recv(LARGEST))
        if told[0] == "ended":
            self._ended[told[1]] = told[2]
        return told


def _end(stack: contextlib.ExitStack, stream: int | None, own: int) -> tuple[int, int | None]:
    """The child's end of a stream, and ours where it is a pipe."""
    if stream == subprocess.PIPE:
        ours, theirs = os.pipe()
        stack.callback(os.close, theirs)
        return theirs, ours
    if stream == subprocess.DEVNULL:
        null = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, null)
        return null, None
    return (own if stream is None else stream), None


Started = WarmProcess | subprocess.Popen[str]

_forker: Forker | None = None


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Within it, programs are forked."""
    global _forker
    with contextlib.closing(Forker()) as _forker:
        try:
            yield
        finally:
            _forker = None


def start(program: Sequence[str], **options: Any) -> Started:
    """Start ``python -m NAME ...`` or ``python FILE ...``. The options are those of ``Forker.start``, as Popen's."""
    if _forker is not None:
        return _forker.start(program, **options)
    return subprocess.Popen([sys.executable, *program], text=True, **options)


def run(program: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """What it has said on both streams, and its exit code, when it has ended."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out.fileno(), "stderr": err.fileno()}
        process = start(program, cwd=cwd, env=env, **streams)
        try:
            code = process.wait(PATIENCE)
        except BaseException:
            process.kill()
            process.wait()
            raise
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess([*program], code, out.read(), err.read())
