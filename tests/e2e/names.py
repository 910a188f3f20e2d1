"""What a container engine's name server does: a name has the addresses of those who run under it."""

import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress

A = 1
NO_SUCH_NAME = 3


class NameServer:
    """Answers questions about ``names``, whose addresses may change meanwhile, on the socket ``bound``."""

    def __init__(self, bound: socket.socket, names: Mapping[str, set[str]]) -> None:
        self._socket, self._names = bound, names
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "NameServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # it is not connected; whoever waits there is woken all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, address = self._socket.recvfrom(4096)
            if not address:
                return
            self._socket.sendto(self.answer(question), address)

    def answer(self, question: bytes) -> bytes:
        """RFC 1035: the header and the question again, and a record for each address."""
        labels, at = [], 12
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        end = at + 5
        (kind,) = struct.unpack(">H", question[at + 1 : at + 3])
        addresses = self._names.get(".".join(labels).lower())
        found = sorted(addresses or ()) if kind == A else []
        code = 0 if addresses is not None else NO_SUCH_NAME
        header = question[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(found), 0, 0)
        records = [struct.pack(">HHHIH", 0xC00C, A, 1, 1, 4) + socket.inet_aton(address) for address in found]
        return header + question[12:end] + b"".join(records)
