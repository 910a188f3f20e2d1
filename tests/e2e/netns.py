"""A machine of its own on a cable of its own: a network namespace, for what only a network can do to a connection."""

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.patience import PATIENCE

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


class Machine:
    """Another host: ``here`` is our address on the cable to it, ``connect`` opens a connection from there."""

    def __init__(self, name: str, here: str, there: str) -> None:
        self._name, self.here, self.there = name, here, there

    def connect(self, port: int) -> socket.socket:
        return connect_from(f"/run/netns/{self._name}", (self.here, port))

    def pull_the_cable(self) -> None:
        _ip("-n", self._name, "link", "set", "there", "down")


def in_network(namespace: str, make: Callable[[], T]) -> T:
    """What ``make`` gives on a thread that is in the network of that file: a socket stays where it was made."""
    made: list[T | BaseException] = []

    def enter() -> None:
        try:
            with open(namespace, "rb") as there:
                if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(make())
        except BaseException as error:
            made.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


def connect_from(namespace: str, address: tuple[str, int], source: str | None = None) -> socket.socket:
    """A connection from within a network namespace, ``source`` being one of the addresses there."""
    own = None if source is None else (source, 0)
    return in_network(namespace, lambda: socket.create_connection(address, timeout=PATIENCE, source_address=own))


@contextlib.contextmanager
def another_machine() -> Iterator[Machine]:
    """Needs root and ip(8)."""
    number = os.getpid() % 250
    name, near = f"flserver-{os.getpid()}", f"flsrv{os.getpid()}"[:15]
    here, there = f"10.199.{number}.1", f"10.199.{number}.2"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", "there", "netns", name)
        _ip("addr", "add", f"{here}/24", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", name, "addr", "add", f"{there}/24", "dev", "there")
        _ip("-n", name, "link", "set", "there", "up")
        yield Machine(name, here, there)
    finally:
        if Path(f"/sys/class/net/{near}").exists():
            _ip("link", "del", near)
        _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
