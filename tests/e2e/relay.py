"""``python -S relay.py SOCKET FILE [ARGUMENT]...``: stands for a program that a test forks.

Whoever starts this instead, as often as it takes, does not pay for each import of torch. It passes SIGTERM on, and ends
as the program does. ``relaying`` is the test's end of the socket.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping

LARGEST = 1 << 16  # bytes of a command line


def stand_for(program: list[str], place: str) -> int:
    """Have it started with this process's output, and wait for its end. Returns its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with socket.socket(socket.AF_UNIX) as relay:
        relay.connect(place)
        socket.send_fds(relay, [json.dumps(program).encode()], [1, 2])
        with relay.makefile(encoding="ascii") as told:
            pid = int(told.readline())
            signal.signal(signal.SIGTERM, lambda number, frame: os.kill(pid, number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            code = int(told.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


@contextlib.contextmanager
def relaying(place: str, env: Mapping[str, str]) -> Iterator[None]:
    """Programs that are asked for at ``place`` are started; each has ended after the block."""
    from tests import warm
    from tests.e2e.harness import TESTS

    threads: list[threading.Thread] = []

    def serve(relay: socket.socket) -> None:
        with relay:
            message, streams, _, _ = socket.recv_fds(relay, LARGEST, 2)
            process = warm.start(json.loads(message), cwd=TESTS.parent, env=env, stdout=streams[0], stderr=streams[1])
            for stream in streams:
                os.close(stream)
            with contextlib.suppress(BrokenPipeError):  # the one who has asked was killed
                relay.sendall(f"{process.pid}\n".encode())
                relay.sendall(f"{process.wait()}\n".encode())

    def accept() -> None:
        with contextlib.suppress(OSError):  # the block is over
            while True:
                relay, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(relay,)))
                threads[-1].start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    sys.exit(stand_for(sys.argv[2:], sys.argv[1]))
