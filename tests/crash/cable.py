"""What lies between a server and PostgreSQL: all that they say goes through it, and at one piece of that something
happens.

A piece is what the server sends at once. Pieces are counted, and no clock is asked, so a run comes to the same ones
again.
"""

import selectors
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["commit", "statement"]
Moment = Literal["asked", "answered"]
COMMIT = b"COMMIT\0"
MOST = 1 << 16
AT_ONCE = struct.pack("ii", 1, 0)  # closed with it, a connection is reset


@dataclass(frozen=True, order=True)
class Cut:
    """At the ``number``-th piece of its ``kind``, counted from 1: before it reaches the database (asked), or when the
    database has done it and nobody has heard (answered)."""

    kind: Kind
    moment: Moment
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number} {self.moment}"


@dataclass(eq=False)
class _Line:
    """One connection: the ``near`` end is the server's. What is not passed on now is ``kept``, for either end."""

    near: socket.socket
    far: socket.socket
    silent: bool = False
    asked: bool = False  # the answer that comes next is the cut
    kept: dict[socket.socket, bytearray] = field(default_factory=dict)
    gone: set[socket.socket] = field(default_factory=set)

    def other(self, end: socket.socket) -> socket.socket:
        return self.far if end is self.near else self.near


class Cable:
    """Forwards to the port ``target`` on loopback. ``counts`` are the pieces of each kind that came, from the first on
    that has ``begins`` in it. At ``cut`` the piece, or its answer, is kept, and ``on_cut`` is called, on the cable's
    thread: there it can :meth:`hush` or :meth:`reset` the whole."""

    def __init__(self, target: int, begins: bytes = b"") -> None:
        self.counts: Counter[Kind] = Counter()
        self.cut: Cut | None = None
        self.on_cut: Callable[[], None] = lambda: None
        self.was_cut = False
        self._target, self._begins = target, begins
        self._begun = not begins
        self._heals_when_given_up = False
        self._at_cut: _Line | None = None
        self._silent = False
        self._lines: set[_Line] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._bell, self._ring = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._forward, name="cable")

    def __enter__(self) -> "Cable":
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ring.send(b".")
        self._thread.join()
        for line in list(self._lines):
            self._close(line)
        self._selector.close()
        for end in (self._listener, self._bell, self._ring):
            end.close()

    def heal(self) -> None:
        """The silence is over, says another thread."""
        self._ring.send(b"!")

    # --- on its thread ------------------------------------------------------------------------------------------------

    def hush(self, *, until_given_up: bool) -> None:
        """From now on nothing is passed on and nothing closed, as by a proxy that hangs, until the server gives its
        connection up, or until :meth:`heal`. Then all that was kept goes on its way."""
        self._silent, self._heals_when_given_up = True, until_given_up
        self._selector.unregister(self._listener)
        for line in self._lines:
            line.silent = True

    def reset(self) -> None:
        """All connections are reset; new ones can be made."""
        for line in list(self._lines):
            for end in (line.near, line.far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self._close(line)

    def _forward(self) -> None:
        while True:
            for key, _ in self._selector.select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._bell:
                    if self._bell.recv(1) == b".":
                        return
                    self._heal()
                elif end is self._listener:
                    self._accept()
                elif key.data in self._lines:
                    self._take(key.data, end)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # nobody listens there just now
            near.close()
            return
        line = _Line(near, far)
        self._lines.add(line)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(end, selectors.EVENT_READ, line)

    def _take(self, line: _Line, end: socket.socket) -> None:
        try:
            data = end.recv(MOST)
        except OSError:
            data = b""
        if not data:
            self._ended(line, end)
        elif not line.silent and self._is_cut(line, end, data):
            line.silent, self._at_cut, self.was_cut = True, line, True
            line.kept[line.other(end)] = bytearray(data)
            self.on_cut()
        elif line.silent:
            line.kept.setdefault(line.other(end), bytearray()).extend(data)
        else:
            self._pass_on(line, line.other(end), data)

    def _is_cut(self, line: _Line, end: socket.socket, data: bytes) -> bool:
        if end is line.far:
            return line.asked and not self.was_cut
        self._begun = self._begun or self._begins in data
        if not self._begun:
            return False
        kind: Kind = "commit" if COMMIT in data else "statement"
        self.counts[kind] += 1
        here = self.cut is not None and (self.cut.kind, self.cut.number) == (kind, self.counts[kind])
        line.asked = here and self.cut is not None and self.cut.moment == "answered"
        return here and not line.asked and not self.was_cut

    def _ended(self, line: _Line, end: socket.socket) -> None:
        """The server or the database has closed its end."""
        if not self._silent:
            self._close(line)
            return
        self._selector.unregister(end)
        line.gone.add(end)
        if self._heals_when_given_up and line is self._at_cut and end is line.near:
            self._heal()

    def _heal(self) -> None:
        if not self._silent:
            return
        self._silent = False
        self._selector.register(self._listener, selectors.EVENT_READ)
        for line in list(self._lines):
            line.silent = False
            for end in (line.far, line.near):  # the server may be gone, and what it has said comes all the same
                self._pass_on(line, end, bytes(line.kept.get(end, b"")))
            line.kept.clear()
            if line.gone:
                self._close(line)

    def _pass_on(self, line: _Line, end: socket.socket, data: bytes) -> None:
        try:
            end.sendall(data)
        except OSError:
            self._close(line)

    def _close(self, line: _Line) -> None:
        self._lines.discard(line)
        for end in (line.near, line.far):
            with suppress(KeyError, ValueError):
                self._selector.unregister(end)
            end.close()
