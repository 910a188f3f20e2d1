"""Somebody who listens where a Ray cluster could be, and is none."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # RFC 9113: an empty frame of settings, the first that a server says


@contextmanager
def listening(said: bytes, *, ends: bool = False) -> Iterator[str]:
    """Take every connection, say that much on it, and nothing more; where it ``ends``, close it then. Gives the
    address."""
    taken = list[socket.socket]()

    def take() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:  # it is over
                return
            connection.sendall(said)
            if ends:
                connection.close()
            taken.append(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take, name="listening")
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()
