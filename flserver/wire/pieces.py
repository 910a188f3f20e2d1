"""A layout's message in pieces, to be found in one where some are longer and pickle's frames begin elsewhere.

A storage's key is an address, which torch writes in decimal: whoever moves a module to a GPU and back has keys of 9 and
of 15 digits, by chance. What follows from a key's length stands in three more places, its own length twice and that of
the file that it is in; pickle begins a new frame after every 64 KiB or so, between two opcodes. So a message is gone
through piece by piece: what is fixed is compared, lengths are read, and must be those of what was found; a frame may
begin where an opcode of the layout's message does.
"""

import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from flserver.wire.inert import PickleLimits

LONGEST: Final = 255  # bytes of a key or an id
MOST_FRAMES: Final = 1 << 12  # of a message, and as many large bytes between them
HEAD: Final = 9  # bytes of a frame's opcode and its argument
# Opcodes, and how many bytes the argument has, or the length in it: of integers, of bytes, of those outside of frames
INTEGERS: Final = {b"K": 1, b"M": 2, b"J": 4}
_BYTES: Final = {b"C": 1, b"B": 4}
_LARGE: Final = {ord("B"): 4, 0x8E: 8}
_FRAME: Final = 0x95


class Kind(IntEnum):
    """``FRAME`` is a frame's head, which may be missing or elsewhere; ``HOLE`` has always as many bytes; ``LENGTH`` is
    that of the ``SIZED`` one behind it; ``FILE`` is the opcode of bytes, with their length, which from ``END`` on are
    as many as the layout's; ``INTEGER`` is the opcode of one, with its argument. An ``END`` has no bytes."""

    FIXED, END, FRAME, HOLE, LENGTH, SIZED, FILE, INTEGER = range(8)


FIXED, END, FRAME, HOLE, LENGTH, SIZED, FILE, INTEGER = Kind  # looked up thousands of times for a message


class Piece(NamedTuple):
    """A part of the layout's message: ``text`` are its bytes where they are of use, ``opcodes`` has a bit for each of
    them at which an opcode of the message stands."""

    kind: Kind
    start: int
    size: int
    text: bytes = b""
    opcodes: bytes = b""


class Pieces:
    """The pieces of ``body``. ``marked`` are those that are not fixed, as (kind, start, stop); ``opcodes`` is where
    opcodes stand, ascending; ``spare`` is how many more of them ``limits`` allow.

    Raises ValueError for two in one place, and for more frames than are looked for.
    """

    def __init__(
        self,
        body: memoryview,
        marked: Sequence[tuple[Kind, int, int]],
        opcodes: Sequence[int],
        spare: int,
        limits: PickleLimits,
    ) -> None:
        frames = sum(kind is FRAME for kind, _, _ in marked)
        if frames > MOST_FRAMES:
            raise ValueError("too many frames")
        found, end = [], 0
        for start, stop, kind in sorted((start, stop, kind) for kind, start, stop in marked):
            if start < end:
                raise ValueError("two pieces in one place")
            text = bytes(body[start + 1 : stop]) if kind is FILE else b""
            found += [_fixed(body, end, start, opcodes), Piece(kind, start, stop - start, text)]
            end = stop
        found.append(_fixed(body, end, len(body), opcodes))
        self._pieces = tuple(piece for piece in found if piece.size or piece.kind is not FIXED)
        self._most_frames = frames + spare
        self._longest = min(limits.text_bytes, LONGEST)
        self._integers = {code: width for code, width in INTEGERS.items() if code != b"J" or limits.integer_bytes >= 4}

    def __len__(self) -> int:
        return len(self._pieces)

    def find(self, body: memoryview, frames: Sequence[int]) -> Mapping[int, slice] | None:
        """Where holes, sized pieces and integers' arguments are in ``body``, whose frames begin at ``frames``, by where
        they begin in the layout's message. None where it is no message of this layout."""
        if len(frames) > self._most_frames:
            return None
        frames = [*frames, sys.maxsize]  # beyond the last one
        found: dict[int, slice] = {}
        at = frame = length = longer = file = claimed = 0
        for kind, start, size, text, opcodes in self._pieces:
            if kind is FIXED:
                done = 0
                while at <= (head := frames[frame]) < at + size - done:
                    part = done + head - at
                    if not _has(opcodes, part) or body[at:head] != text[done:part]:
                        return None
                    at, done, frame = head + HEAD, part, frame + 1
                end = at + size - done
                if body[at:end] != text[done:]:
                    return None
                at = end
            elif kind is HOLE:
                found[start] = slice(at, at + size)
                at += size
            elif kind is LENGTH:
                length = int.from_bytes(body[at : at + size], "little")
                at += size
            elif kind is SIZED:
                if length > self._longest:
                    return None
                found[start] = slice(at, at + length)
                longer += length - size
                at += length
            elif kind is FILE or kind is INTEGER:
                if at == frames[frame]:
                    at, frame = at + HEAD, frame + 1
                width = (_BYTES if kind is FILE else self._integers).get(bytes(body[at : at + 1]))
                if width is None:
                    return None
                argument = slice(at + 1, at + 1 + width)
                if kind is FILE:
                    claimed = int.from_bytes(body[argument], "little") - int.from_bytes(text, "little")
                    file = longer
                else:
                    found[start + 1] = argument
                at = argument.stop
            elif kind is END and longer - file != claimed:
                return None
        return found if at == len(body) and frame == len(frames) - 1 else None


def _fixed(body: memoryview, start: int, stop: int, opcodes: Sequence[int]) -> Piece:
    bits = bytearray((stop - start + 7) // 8)
    here = opcodes[bisect_left(opcodes, start) : bisect_left(opcodes, stop)]
    for at in here:
        bits[(at - start) // 8] |= 1 << (at - start) % 8
    return Piece(FIXED, start, stop - start, bytes(body[start:stop]), bytes(bits) if here else b"")


def _has(bits: bytes, index: int) -> bool:
    return index < 8 * len(bits) and bool(bits[index // 8] >> index % 8 & 1)


def frames_of(body: memoryview) -> Sequence[int]:
    """Where frames begin, as pickle writes them: one where another ends, or bytes that are too large for one. What is
    none is not found where it is looked for."""
    found, at = list[int](), 2
    for _ in range(2 * MOST_FRAMES):
        opcode = body[at] if at < len(body) else None
        if opcode == _FRAME:
            claimed = int.from_bytes(body[at + 1 : at + HEAD], "little")
            if at + HEAD + claimed > len(body):
                break
            found.append(at)
            at += HEAD + claimed
        elif opcode in _LARGE:
            width = _LARGE[opcode]
            at += 1 + width + int.from_bytes(body[at + 1 : at + 1 + width], "little")
        else:
            break
    return found
