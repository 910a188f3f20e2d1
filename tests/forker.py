"""``python forker.py FD``: imports torch and its like once, then forks a process for every program it is sent.

On the socket FD a message is a program to start, with its three streams; an answer ``["started", pid]`` or ``["ended",
pid, exit code]``. Nothing of this project is imported here. A program that would import it from this checkout is forked
from a second process, in which that is done and the arithmetic loaded: half a second of a processor, half of a small
run's. What has another path or another cache imports by itself.

A program ends as Python ends, but that what is alive then is not taken apart: with torch that is half a second of a
processor; and the search for garbage in all that is imported here, which it is spared too, is another one.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch",
    "torchvision",
    "numba",
    "sklearn.datasets",
    "sqlalchemy",
    "alembic.command",
    "prometheus_client",
    "rich",
    "blake3",
    "click",
    "safetensors.torch",
)
CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("flserver", "flclient")
OURS = (
    "flserver.cli.serve",
    "flserver.process.launch",
    "flserver.process.app",
    "flserver.network.upload",
    "flclient.cli",
)
CACHES = ("HOME", "XDG_CACHE_HOME", "CACHE_DIRECTORY")  # the environment's words for where compiled arithmetic is
OWN_PATH = sys.path[1:]  # without the forker's folder
LOST = 120  # the exit code where what was printed last could not be written
LARGEST = 1 << 17  # bytes of a message: a command line and an environment


Program = dict[str, Any]
Prepared = dict[str, socket.socket | None]
"""The second processes, by the filter of warnings; None for one that could not be made."""


def serve(asked: socket.socket, told: socket.socket, prepared: Prepared | None) -> Program | None:
    """Fork for every message, or have one of those ``prepared`` do that, and tell how children end. Returns the program
    in a child, None at the end of file."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def leave() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (woken, wake):
            os.close(descriptor)
        for other in (asked, *(prepared or {}).values()):
            if other is not None:
                other.close()

    while True:
        ready, _, _ = select.select([asked, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            while (ended := _reap()) is not None:
                with contextlib.suppress(OSError):
                    told.send(json.dumps(["ended", *ended]).encode())
        if asked in ready:
            message, streams, _, _ = socket.recv_fds(asked, LARGEST, 3)
            if not message:
                return None
            program: Program = json.loads(message)
            kind = None if prepared is None else kind_of(program)
            if prepared is not None and kind is not None and kind not in prepared:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                if os.fork() == 0:
                    leave()
                    for descriptor in (*streams, ours.detach()):
                        os.close(descriptor)
                    prepare(kind, theirs)
                    asked_here = serve(theirs, told, None)
                    return asked_here and asked_here | {"prepared": True}
                theirs.close()
                prepared[kind] = ours if ours.recv(1) else None
            if prepared is not None and kind is not None and (other := prepared[kind]) is not None:
                socket.send_fds(other, [message], streams)
            elif (pid := os.fork()) == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for stream in streams:
                    os.close(stream)
                leave()
                told.close()
                return program
            else:
                told.send(json.dumps(["started", pid]).encode())
            for stream in streams:
                os.close(stream)


def kind_of(program: Program) -> str | None:
    """Its filter of warnings, where what it imports of this project is in this checkout, and the arithmetic is compiled
    where it is for this process; else None."""
    env, found = program["env"], next(filter(_has_ours, path_of(program)), None)
    others = [name for name in env if name.startswith("NUMBA_") or name in CACHES]
    same = found is not None and Path(found).resolve() == CHECKOUT and all(env[n] == os.environ.get(n) for n in others)
    kind: str = env.get("PYTHONWARNINGS", "")
    return kind if same and kind in ("", "error") else None


def _has_ours(folder: str) -> bool:
    return any((Path(folder) / package).exists() for package in PACKAGES)


def prepare(kind: str, ready: socket.socket) -> None:
    """Import what programs of the kind import, and say that it is done; end where it cannot be: they will say why."""
    try:
        heed(kind)
        sys.path[:] = [str(CHECKOUT), *OWN_PATH]
        for name in OURS:
            importlib.import_module(name)
        sys.modules["flserver.aggregation.kernel"].load()
        assert len(os.listdir("/proc/self/task")) == 1, "a thread would not be in what is forked"
        gc.collect()
        gc.freeze()
    except BaseException:
        os._exit(1)
    ready.send(b"1")


def _reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


def path_of(program: Program) -> list[str]:
    """The folders in which it looks for modules before this process's own."""
    given = [entry for entry in program["env"].get("PYTHONPATH", "").split(os.pathsep) if entry]
    match program["program"]:
        case ["-m", *_]:
            return [program["cwd"], *given]
        case [file, *_]:
            return [str(Path(file).parent), *given]
    raise ValueError(program)


def heed(kind: str) -> None:
    """Where warnings are errors, those of the libraries' own filters stay what they are."""
    if kind == "error":
        warnings.simplefilter("error")
        warnings.filters[:0] = OF_LIBRARIES


def run(program: Program) -> None:
    """Be that program: what ``python -m NAME ...`` or ``python FILE ...`` is in its folder and environment."""
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if not program.get("prepared"):
        heed(os.environ.get("PYTHONWARNINGS", ""))
    sys.path[:] = [*path_of(program), *OWN_PATH]
    match program["program"]:
        case ["-m", name, *arguments]:
            sys.argv[:] = [name, *arguments]
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        case [file, *arguments]:
            sys.argv[:] = [file, *arguments]
            runpy.run_path(file, run_name="__main__")


def end(program: Callable[[], object]) -> NoReturn:
    """Be the program to its end: that of its threads, of what it has registered for then, and of its garbage."""
    code = 0
    try:
        program()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if code and not isinstance(left.code, int):
            print(left.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # closed by the program itself
            try:
                stream.flush()
            except OSError:
                code = LOST
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


OF_LIBRARIES: list[Any] = []
"""The filters of warnings that they have made."""

if __name__ == "__main__":
    before = list(warnings.filters)
    for library in LIBRARIES:
        importlib.import_module(library)
    sys.modules["numba"].njit(lambda number: number + 1.0)(2.0)  # half a second of its own, once
    OF_LIBRARIES += [entry for entry in warnings.filters if entry not in before]
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=int(sys.argv[1]))
    program = serve(control, control.dup(), {})
    if program is None:
        os._exit(0)
    end(functools.partial(run, program))
