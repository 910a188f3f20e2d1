"""A long pickle gets shorter while it arrives: a payload that came before becomes a reference to the first one.

Weights that are views of one buffer (an LSTM's on a GPU, all of a model's after ``vector_to_parameters``) are pickled
by torch with the whole buffer, once a tensor. Nothing is executed or checked here: opcodes are told apart by their
lengths alone, what comes out is a pickle of the same value, and what is none is left to the pickle machine as it came.
"""

import struct
from hashlib import blake2b
from typing import Final

LEAST: Final = 1024  # bytes of a payload that is worth a look: the shorter ones of a model add up to little
_NAME_WINDOW: Final = 1024  # bytes in which both lines of a name must end: the machine reads no longer ones

_FRAME, _GLOBAL, _MEMOIZE = 0x95, 0x63, 0x94
_PUTS: Final = {0x71: 1, 0x72: 4, _MEMOIZE: 0}
_TEXTS: Final = {0x8C: 1, 0x58: 4, 0x8D: 8}
_BYTES: Final = {0x43: 1, 0x42: 4, 0x8E: 8, 0x96: 8}
# How long an opcode's argument is; of the counted ones, how long the count in front of it.
_FIXED: Final = (
    dict.fromkeys(b"(01N\x88\x89)\x85\x86\x87t]ae\x8f\x90\x91}su\x93R\x81\x92bQ", 0)
    | {0x80: 1, 0x4B: 1, 0x4D: 2, 0x4A: 4, 0x47: 8, 0x68: 1, 0x6A: 4, _FRAME: 8}
    | _PUTS
)
_COUNTED: Final = _TEXTS | _BYTES | {0x8A: 1, 0x8B: 4}

_Key = tuple[bool, int, bytes]  # whether it is text, its length, its digest


def without_frames(body: bytes) -> bytes:
    """The pickle ``body`` as it is without frames, which no reader needs: then its parts can be made longer."""
    kept = bytearray(body)
    return bytes(kept[: Repeats(2**62, least=2**62).drop(memoryview(kept))])


class Repeats:
    """Looks for payloads of ``least`` bytes and more that repeat in the one body that is arriving; reads ``opcodes`` of
    it at most. ``least`` is 4 or more, or what refers to a payload would be longer than it."""

    def __init__(self, opcodes: int, least: int = LEAST) -> None:
        self._left = opcodes
        self._least = least
        self._at = 0  # the first byte that was not looked at
        self._puts = 0
        self._fresh: _Key | None = None  # a payload that the opcode before left on the stack
        self._known: dict[_Key, int] = {}  # where in the memo each payload is to be found

    def drop(self, kept: memoryview) -> int:
        """Take what repeats out of ``kept`` (writable), all that is kept of the body so far.

        Returns how many bytes are left, at its beginning; call it with these and what came after them the next time.
        """
        cuts = self._scan(kept)
        if not cuts:
            return len(kept)
        to = cuts[0][0]
        # Frames say how many bytes follow, so they go too: to a reader of the whole they say nothing.
        for (_, end, instead), following in zip(cuts, [*(cut[0] for cut in cuts[1:]), len(kept)], strict=True):
            for piece in (instead, kept[end:following]):
                kept[to : to + len(piece)] = piece
                to += len(piece)
        self._at -= len(kept) - to
        return to

    def _scan(self, kept: memoryview) -> list[tuple[int, int, bytes]]:
        """What to cut out of ``kept``: from where to where, and what goes there instead."""
        cuts: list[tuple[int, int, bytes]] = []
        while self._left and self._at < len(kept):
            at, opcode = self._at, kept[self._at]
            payload, end = self._extent(kept, opcode)
            if end > len(kept):
                break
            self._at, self._left, fresh = end, self._left - 1, None
            if opcode in _PUTS:
                if self._fresh is not None:
                    told = int.from_bytes(kept[at + 1 : end], "little")
                    self._known[self._fresh] = self._puts if opcode == _MEMOIZE else told
                self._puts += 1
            elif opcode == _FRAME:
                cuts.append((at, end, b""))
                fresh = self._fresh  # a long payload stands outside frames, and what puts it into the memo inside again
            elif end - payload >= self._least and (opcode in _TEXTS or opcode in _BYTES):
                key = (opcode in _TEXTS, end - payload, blake2b(kept[payload:end], digest_size=32).digest())
                if key in self._known:
                    cuts.append((at, end, struct.pack("<cI", b"j", self._known[key])))
                else:
                    fresh = key
            self._fresh = fresh
        return cuts

    def _extent(self, kept: memoryview, opcode: int) -> tuple[int, int]:
        """Where the argument of the opcode at hand starts and ends; beyond ``kept`` where that has not come yet."""
        start = self._at + 1
        if opcode in _FIXED:
            return start, start + _FIXED[opcode]
        if opcode in _COUNTED:
            payload = start + _COUNTED[opcode]
            return payload, payload + int.from_bytes(kept[start:payload], "little")
        unread = start, len(kept) + 1
        if opcode == _GLOBAL:
            window = bytes(kept[start : start + _NAME_WINDOW])
            lines = window.split(b"\n", 2)
            if len(lines) == 3:
                return start, start + len(window) - len(lines[2])
            if len(window) < _NAME_WINDOW:
                return unread
        self._left = 0  # the pickle's end, or nothing that the machine reads
        return unread
