"""Frames: an 8-byte unsigned big-endian length, then a body of exactly that many bytes.

Nothing here does IO. A reader asks where the next bytes go (``space``), fills it from wherever bytes come from, and
says how many arrived (``received``). What a frame may be is known before its body is kept: the length is checked when
its eight bytes are in, the encoding when the first byte of the body is.
"""

from dataclasses import dataclass
from typing import Final, Literal

from flserver.errors import FrameRefused, FrameTooLong

Encoding = Literal["json", "pickle", "unknown"]
"""How a body is written; ``unknown`` before its first byte is in, and where that byte is neither's."""

LENGTH_BYTES = 8
OPENING_BYTES = 64 * 1024  # what a frame may use before anybody has asked for room for all of it

IMPLAUSIBLE_LENGTH = 2**35  # bytes: from here on it is no model's length, but another protocol's first bytes

JSON_FIRST_BYTE = 0x7B  # "{"
PICKLE_FIRST_BYTE = 0x80  # the PROTO opcode: pickle protocol 2 or later

RAISED_BY: Final = {"json": ("--max-json-size", 2**20), "pickle": ("--max-update-size", 2**48)}
"""The server's option for the longest body of an encoding, and how far it goes (bytes)."""


def encode_length(length: int) -> bytes:
    """The eight bytes before a body of ``length`` bytes. Send them in one call: trainers read them in one."""
    return length.to_bytes(LENGTH_BYTES, "big")


@dataclass(frozen=True, kw_only=True)
class FrameLimits:
    """The longest body (bytes) that may come next, by encoding; 0 where that encoding is not expected.

    ``either`` is for an end that reads whatever is not too long, also what is empty, and leaves it to the decoder to
    say what is wrong with it.
    """

    json: int = 0
    pickle: int = 0
    either: int = 0

    @property
    def longest(self) -> int:
        """Of whatever encoding."""
        return max(self.json, self.pickle, self.either)


class FrameReader:
    """Reads one frame, without IO and without a copy of a large body.

    Up to ``OPENING_BYTES`` go into a buffer of its own. A longer body needs room first: ``needs_room`` turns true once
    the opening has arrived, and ``give_room`` takes a buffer in which the body goes on. Where that ends before the body
    does, ``go_on_in`` takes the next one before ``space`` is empty.
    """

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._head = bytearray(LENGTH_BYTES)
        self._head_got = 0
        self._body = memoryview(b"")
        self._got = 0
        self._filled = 0  # bytes of _body that what arrived takes
        self._roomy = False
        self._kept = True
        self._waste = memoryview(b"")  # where what is not kept goes
        self.length: int | None = None
        self.encoding: Encoding = "unknown"

    @property
    def bytes_received(self) -> int:
        """Bytes on the wire so far, the length's included."""
        return self._head_got + self._got

    @property
    def complete(self) -> bool:
        """Whether the whole frame has arrived."""
        return self.length is not None and self._got == self.length

    @property
    def needs_room(self) -> bool:
        """Whether the body goes on beyond what there is room for: call ``give_room`` before ``space``."""
        return not self._roomy and self.left > 0 and self._kept and self._filled == len(self._body)

    @property
    def left(self) -> int:
        """Bytes of the body that have not arrived; 0 before its length is known."""
        return 0 if self.length is None else self.length - self._got

    @property
    def body(self) -> memoryview:
        """What is kept of what has arrived of the body; after ``discard`` only its opening."""
        return self._body[: self.kept_bytes]

    @property
    def kept_bytes(self) -> int:
        """Bytes of the body that have arrived and are kept."""
        return self._filled

    def narrow(self, limits: FrameLimits) -> None:
        """From here on these are the limits. Raises FrameRefused where what has come of the body is not within them."""
        self._limits = limits
        if self._got:
            self._check_encoding()

    def give_room(self, room: memoryview) -> None:
        """Move the opening into ``room`` (writable, longer than that) and go on there."""
        room[: self._filled] = self.body
        self._body, self._roomy = room, True

    def go_on_in(self, room: memoryview) -> None:
        """Go on in another room, where what is kept lies already: the old one is not looked at any more."""
        self._body = room

    def shorten(self, count: int) -> None:
        """Keep the first ``count`` bytes of ``body`` alone, and go on behind them."""
        assert count <= self._filled
        self._filled = count

    def discard(self) -> None:
        """Keep no more of the body than its opening: what is still to come goes to one place again and again. Room that
        was given is not looked at any more."""
        self._body = memoryview(bytes(self.body[:OPENING_BYTES]))
        self._kept, self._filled = False, len(self._body)
        self._waste = memoryview(bytearray(min(self.left, OPENING_BYTES)))

    def space(self) -> memoryview:
        """Where the next bytes go; never empty before the frame is complete or needs room."""
        if self.length is None:
            return memoryview(self._head)[self._head_got :]
        return self._body[self._filled :][: self.left] if self._kept else self._waste[: self.left]

    def received(self, count: int) -> None:
        """``count`` bytes were written at the start of ``space()``.

        Raises FrameRefused when the length or the first byte is not one that may come now.
        """
        if self.length is not None:
            first = self._got == 0 and count > 0
            self._got += count
            self._filled += count if self._kept else 0
            if first:
                self._check_encoding()
            return
        self._head_got += count
        if self._head_got == LENGTH_BYTES:
            self._check_length(int.from_bytes(self._head, "big"))

    def _check_length(self, length: int) -> None:
        if length == 0 and not self._limits.either:
            raise FrameRefused("a frame of length 0")
        if length > self._limits.longest:
            if length >= IMPLAUSIBLE_LENGTH and (other := _other_protocol(bytes(self._head))):
                raise FrameRefused(other)
            refusal = FrameRefused if length >= IMPLAUSIBLE_LENGTH else FrameTooLong
            raise refusal(self._too_long("frame", length, self._limits.longest))
        self.length = length
        self._body = memoryview(bytearray(min(length, OPENING_BYTES)))

    def _check_encoding(self) -> None:
        assert self.length is not None
        first, limit = self._body[0], 0
        if first == JSON_FIRST_BYTE:
            self.encoding, limit = "json", self._limits.json
        elif first == PICKLE_FIRST_BYTE:
            self.encoding, limit = "pickle", self._limits.pickle
        if self._limits.either:
            return
        if self.encoding == "unknown":
            raise FrameRefused(f"a body that starts with byte 0x{first:02x}: neither JSON nor a pickle")
        if limit == 0:
            raise FrameRefused(f"a {self.encoding} body where none may come")
        if self.length > limit:
            raise FrameTooLong(self._too_long(f"{self.encoding} body", self.length, limit))

    def _too_long(self, what: str, length: int, limit: int) -> str:
        option, most = RAISED_BY["pickle" if limit == self._limits.pickle else "json"]
        cure = f": {option} {length} takes it" if limit and not self._limits.either and length <= most else ""
        return f"a {what} of {length} bytes where at most {limit} may come{cure}"


def _other_protocol(head: bytes) -> str:
    """What first bytes are that read as a length of many exabytes: a port scanner's, a browser's, a forwarder's."""
    if head[:2] == b"\x16\x03":
        return "a TLS handshake, on a port without --tls-cert"
    if head[:3] == b"\0\0\0" and head[5:] == b"SMB":
        return "an SMB request"
    if head == b"\0\0\0\x08\x04\xd2\x16\x2f":
        return "a PostgreSQL client's request"
    if head == b"\r\n\r\n\0\r\nQ" or head.startswith(b"PROXY "):
        return "a PROXY protocol header, from an address that is not --trusted-proxy"
    return f"something else than a frame (the bytes are {head!r})" if all(32 <= byte < 127 for byte in head) else ""
