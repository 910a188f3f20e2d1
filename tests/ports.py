"""Ports for servers that are started later, or again."""

import contextlib
import random
import socket

_PORTS = random.SystemRandom()  # test processes run side by side, and hypothesis seeds the usual one alike in all


def free_port() -> int:
    """A port that is free, and stays so: below those that the system gives to whoever asks for any.

    One of the system's own could be somebody's before the server that it is for has bound it.
    """
    while True:
        port = _PORTS.randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
