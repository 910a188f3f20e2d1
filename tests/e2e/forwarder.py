"""A forwarder as it stands in front of a server: one address, many trainers, with or without PROXY headers."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from tests.patience import PATIENCE

Header = Callable[[int], bytes]


def version_1(number: int) -> bytes:
    """What HAProxy's ``send-proxy`` and stunnel's ``protocol = proxy`` write for the connection of that number."""
    return f"PROXY TCP4 {host_of(number)} 127.0.0.1 {50000 + number} 50052\r\n".encode()


def version_2(number: int) -> bytes:
    """What ``send-proxy-v2`` writes, with an extension after the addresses."""
    addresses = socket.inet_aton(host_of(number)) + socket.inet_aton("127.0.0.1")
    body = addresses + struct.pack(">HH", 50000 + number, 50052) + b"\x03\x00\x04\0\0\0\0"
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(body)) + body


def host_of(number: int) -> str:
    return f"10.0.0.{number}"


class Forwarder:
    """Forwards what comes in to ``target``. Its clients say who they are by the number they connect with."""

    def __init__(self, target: int, header: Header | None) -> None:
        self._target, self._header = target, header
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._numbers: dict[int, int] = {}  # source port → number
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def connect(self, number: int) -> socket.socket:
        """A connection of trainer ``number`` through the forwarder."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self._numbers[sock.getsockname()[1]] = number
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def __enter__(self) -> "Forwarder":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, address = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            if self._header is not None:
                far.sendall(self._header(self._numbers[address[1]]))
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
