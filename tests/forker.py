"""``python forker.py FD``: imports torch and its like once, then forks a process for every program it is sent.

On the socket FD a message is a program to start, with its three streams; an answer ``["started", pid]`` or ``["ended",
pid, exit code]``. Nothing of this project is imported here: each program does that by itself.

A program ends as Python ends, but that what is alive then is not taken apart: with torch that is half a second of a
processor; and the search for garbage in all that is imported here, which it is spared too, is another one.
"""

import atexit
import contextlib
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
LOST = 120  # the exit code where what was printed last could not be written
LARGEST = 1 << 17  # bytes of a message: a command line and an environment


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for every message, and tell how children end. Returns the program in a child, None at the end of file."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            while (ended := _reap()) is not None:
                with contextlib.suppress(OSError):
                    control.send(json.dumps(["ended", *ended]).encode())
        if control in ready:
            message, streams, _, _ = socket.recv_fds(control, LARGEST, 3)
            if not message:
                return None
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for descriptor in (*streams, woken, wake):
                    os.close(descriptor)
                control.close()
                program: dict[str, Any] = json.loads(message)
                return program
            for stream in streams:
                os.close(stream)
            control.send(json.dumps(["started", pid]).encode())


def _reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


def run(program: dict[str, Any], of_libraries: list[Any]) -> None:
    """Be that program: what ``python -m NAME ...`` or ``python FILE ...`` is in its folder and environment.

    ``of_libraries`` are the filters of warnings that stay in force where warnings are errors.
    """
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
        warnings.filters[:0] = of_libraries
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    own = sys.path[1:]  # without the forker's folder
    match program["program"]:
        case ["-m", name, *arguments]:
            sys.path[:] = [os.getcwd(), *given, *own]
            sys.argv[:] = [name, *arguments]
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        case [file, *arguments]:
            sys.path[:] = [str(Path(file).parent), *given, *own]
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


if __name__ == "__main__":
    before = list(warnings.filters)
    for library in LIBRARIES:
        importlib.import_module(library)
    sys.modules["numba"].njit(lambda number: number + 1.0)(2.0)  # half a second of its own, once
    added = [entry for entry in warnings.filters if entry not in before]
    gc.collect()
    gc.freeze()
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is None:
        os._exit(0)
    end(lambda: run(asked, added))
