"""``python -m tests.e2e.hostile.flood PORT HOST``: messages that become much, again and again, until SIGTERM.

It is a process of its own: whoever trains beside it, and counts what is read meanwhile, shares no interpreter with it.
"""

import contextlib
import signal
import socket
import sys
import threading
from itertools import cycle

from tests.e2e.harness import send
from tests.e2e.hostile.attack import to_the_end
from tests.e2e.hostile.costs import MUCH, body_of
from tests.patience import PATIENCE

AT_ONCE = 32  # connections


def main(port: int, host: str) -> None:
    """``AT_ONCE`` connections from ``host`` to the server's ``port`` on loopback, each with the next one behind it."""
    stop, bodies, lock = threading.Event(), cycle([body_of(value) for value in MUCH.values()]), threading.Lock()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())

    def keep_sending() -> None:
        while not stop.is_set():
            with lock:
                body = next(bodies)
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), PATIENCE, (host, 0)) as sock,
            ):
                send(sock, body)
                to_the_end(sock)

    threads = [threading.Thread(target=keep_sending) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
