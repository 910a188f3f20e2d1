"""What one thread waits for: sockets that can go on, moments that come, and work that is done when nothing else is."""

import errno
import heapq
import os
import selectors
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

from flserver.clock import monotonic

MOST_READ = 1 << 18  # bytes at once
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of 0 seconds: closing resets the connection

Call = Callable[[], None]
Ended = Callable[[str], None]
"""What is called where a connection ends that we have not closed: with a sentence, or nothing for an end of file."""


class Loop:
    """Calls back, one thing after another; ``run`` is to be called once."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._moments: list[tuple[float, int, Call]] = []
        self._numbers = count()
        self._work: deque[Call] = deque()
        self._over = False
        self.received = self.sent = 0  # bytes

    def watch(self, file: socket.socket | int, events: int, call: Callable[[int], None]) -> None:
        """Call with the events that there are; 0 is none, and what was said before of this file is no more."""
        known = file in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(file)
        elif known:
            self._selector.modify(file, events, call)
        else:
            self._selector.register(file, events, call)

    def after(self, seconds: float, call: Call) -> None:
        heapq.heappush(self._moments, (monotonic() + seconds, next(self._numbers), call))

    def when_idle(self, call: Call) -> None:
        """Call where no socket can go on, one of these at a time."""
        self._work.append(call)

    def end_with(self, descriptor: int) -> None:
        """End where whoever started us closes the other end of this pipe, or is gone."""
        self.watch(descriptor, selectors.EVENT_READ, lambda _: None if os.read(descriptor, 1) else self.end())

    def end(self) -> None:
        self._over = True

    def run(self) -> None:
        """Until ``end`` is called."""
        with self._selector:
            while not self._over:
                for key, events in self._selector.select(self._patience()):
                    if key.fileobj in self._selector.get_map():  # what was called before may have closed it
                        key.data(events)
                while self._moments and self._moments[0][0] <= monotonic():
                    heapq.heappop(self._moments)[2]()
                if self._work:
                    self._work.popleft()()

    def _patience(self) -> float | None:
        if self._work:
            return 0
        return max(0.0, self._moments[0][0] - monotonic()) if self._moments else None


class Link:
    """A connection that is begun at once and never waited for. When ``ended`` is called, it is closed."""

    def __init__(
        self, loop: Loop, family: int, address: tuple[object, ...], ended: Ended, source: str | None = None
    ) -> None:
        """``source`` is the address that it comes from, where that is not for the system to say."""
        self._loop, self._ended = loop, ended
        self._socket = socket.socket(family)
        self._socket.setblocking(False)
        if source is not None:
            # The port is found when it connects: one that is in use towards others will do.
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            self._socket.bind((source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected, self._reading, self.closed = False, False, False
        self._pieces: list[memoryview] = []
        self._opened: Call | None = None
        self._done: Call | None = None
        self._take: Callable[[bytes], None] | None = None
        begun = self._socket.connect_ex(address)  # what it comes to shows when it can be written to
        self._failed = 0 if begun == errno.EINPROGRESS else begun  # such as no port that is free
        self._watch()

    def opened(self, call: Call) -> None:
        """Call when it is connected."""
        self._opened = call

    def send(self, pieces: Sequence[bytes | memoryview], done: Call) -> None:
        """Send these, and call when the system has all of them."""
        self._pieces, self._done = [memoryview(piece) for piece in pieces], done
        if self._connected:
            self._write()
        if not self.closed:
            self._watch()

    def read(self, take: Callable[[bytes], None] | None = None) -> None:
        """Give what comes to ``take`` as it comes; without it only the end is waited for."""
        self._reading, self._take = True, take
        self._watch()

    def close(self, *, reset: bool = False) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.watch(self._socket, 0, self._ready)
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()

    def say_no_more(self) -> None:
        """Nothing more comes from us."""
        self._socket.shutdown(socket.SHUT_WR)

    @property
    def _events(self) -> int:
        """What is waited for."""
        write = self._pieces or not self._connected
        return (selectors.EVENT_WRITE if write else 0) | (selectors.EVENT_READ if self._reading else 0)

    def _watch(self) -> None:
        self._loop.watch(self._socket, self._events, self._ready)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            if not self._connected and not self._connect():
                return
            self._write()
        if not self.closed and events & selectors.EVENT_READ & self._events:
            self._read()
        if not self.closed:
            self._watch()

    def _connect(self) -> bool:
        if number := self._failed or self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._end(os.strerror(number))
            return False
        self._connected = True
        if self._opened is not None:
            self._opened()
        return not self.closed

    def _write(self) -> None:
        if not self._pieces or not (sent := self._send(self._pieces)):
            return
        while self._pieces and sent >= len(self._pieces[0]):
            sent -= len(self._pieces.pop(0))
        if self._pieces:
            self._pieces[0] = self._pieces[0][sent:]
        elif (done := self._done) is not None:
            self._done = None
            done()

    def _send(self, pieces: Sequence[memoryview]) -> int:
        """How many bytes the system takes now; 0 also where the connection has ended."""
        try:
            sent = self._socket.sendmsg(pieces)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._end(error.strerror or str(error))
            return 0
        self._loop.sent += sent
        return sent

    def _read(self) -> None:
        data = self._receive()
        if data == b"":
            self._end("")
        elif data is not None and self._take is not None:
            self._take(data)

    def _receive(self) -> bytes | None:
        """What has come, empty at its end; None where nothing has, or the connection failed."""
        try:
            data = self._socket.recv(MOST_READ)
        except BlockingIOError:
            return None
        except OSError as error:
            self._end(error.strerror or str(error))
            return None
        self._loop.received += len(data)
        return data

    def _end(self, why: str) -> None:
        self.close()
        self._ended(why)
