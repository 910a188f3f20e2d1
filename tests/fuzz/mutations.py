"""Changes to a pickle that leave most of it readable: bits, cuts and splices, and whole opcodes with their arguments.

Bytes changed blindly mostly break the first length they meet. Here a length follows its argument, also where a pickle
lies in another one's bytes, as torch's storages do.
"""

import pickletools
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

_NESTED: Final = frozenset(b"BCX\x8c\x8d\x8e\x96")
Change = Callable[[bytes, Random, Sequence[bytes]], bytes]

_PUTS: Final = frozenset(b"qr\x94")
_EFFECTS: Final = {
    ord(known.code): (tuple(map(str, known.stack_before)), tuple(map(str, known.stack_after)))
    for known in pickletools.opcodes
}
_FIXED: Final[dict[int, int]] = {}  # bytes of the argument
_COUNTED: Final[dict[int, int]] = {}  # bytes of the length before it
_TEXTUAL: Final[dict[int, int]] = {}  # its lines
for _known in pickletools.opcodes:
    _code, _size = ord(_known.code), _known.arg.n if _known.arg else 0
    if _size >= 0:
        _FIXED[_code] = _size
    elif _size == pickletools.UP_TO_NEWLINE:
        _TEXTUAL[_code] = 2 if _known.name in ("GLOBAL", "INST") else 1
    else:
        _COUNTED[_code] = {
            pickletools.TAKEN_FROM_ARGUMENT1: 1,
            pickletools.TAKEN_FROM_ARGUMENT4: 4,
            pickletools.TAKEN_FROM_ARGUMENT4U: 4,
            pickletools.TAKEN_FROM_ARGUMENT8U: 8,
        }[_size]

_SMALL: Final = (b"N", b"\x88", b")", b"]", b"}", b"K\x00", b"C\x00", b"X\x01\0\0\0a", b"G" + bytes(8), b"ca\nb\n")
OPCODES: Final = tuple(sorted(_FIXED | _COUNTED | _TEXTUAL))
NUMBERS: Final = (0, 1, 2, 3, 127, 128, 255, 2**16, 2**29, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def pieces(body: bytes) -> list[bytes]:
    """The opcodes of the pickles in ``body`` with their arguments; what is none is one last piece."""
    found: list[bytes] = []
    at = 0
    while at < len(body):
        end = _end(body, at)
        if not at < end <= len(body):
            return [*found, body[at:]]
        found.append(body[at:end])
        at = end
    return found


def _end(body: bytes, at: int) -> int:
    """Where the opcode at ``at`` ends; 0 where there is none."""
    code = body[at]
    if code in _FIXED:
        return at + 1 + _FIXED[code]
    if code in _COUNTED:
        start = at + 1 + _COUNTED[code]
        return start + int.from_bytes(body[at + 1 : start], "little")
    for _ in range(_TEXTUAL.get(code, 0)):
        at = body.find(b"\n", at + 1)
        if at < 0:
            return 0
    return at + 1 if code in _TEXTUAL else 0


def values(found: Sequence[bytes]) -> list[tuple[int, int]]:
    """Where, among a pickle's pieces, those stand that make one value, with the values inside it."""
    spans: list[tuple[int, int]] = []
    stack: list[tuple[int, bool]] = []  # where each value or mark starts, and whether it is a mark
    for place, piece in enumerate(found):
        taken, left = _EFFECTS.get(piece[0], ((), ()))
        start, down = place, len(taken)
        if "mark" in taken:
            down = taken.index("mark")
            while stack:
                start, is_mark = stack.pop()
                if is_mark:
                    break
        for _ in range(min(down, len(stack))):
            start, _ = stack.pop()
        if left:
            stack.append((start, left[0] == "mark"))
            if left[0] != "mark":
                spans.append((start, place + 1))
    return spans


def numbered(found: Sequence[bytes]) -> list[bytes]:
    """The same with each memo index spelled out, so that what is taken out does not renumber the rest."""
    explicit, count = [], 0
    for piece in found:
        explicit.append(b"r" + count.to_bytes(4, "little") if piece == b"\x94" else piece)
        count += piece[0] in _PUTS
    return explicit


def opcode(code: int, argument: bytes, number: int) -> bytes:
    """The opcode ``code`` with what fits of ``argument`` or ``number``; a length is the argument's."""
    if code in _FIXED:
        width = _FIXED[code]
        return bytes([code]) + (number % 256**width).to_bytes(width, "little")
    if code in _COUNTED:
        width = _COUNTED[code]
        argument = argument[:255] if width == 1 else argument
        return bytes([code]) + len(argument).to_bytes(width, "little") + argument
    line = argument.replace(b"\n", b"") + b"\n"
    return bytes([code]) + line * _TEXTUAL[code]


def claim(code: int, number: int) -> bytes:
    """The opcode ``code`` with ``number`` as the length of an argument that does not follow; others as they are."""
    if code not in _COUNTED:
        return opcode(code, b"", number)
    return bytes([code]) + (number % 256 ** _COUNTED[code]).to_bytes(_COUNTED[code], "little")


def mutated(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """``body`` after a few changes; ``others`` are what is spliced in."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        change: Change = random.choice(_CHANGES)
        body = change(body, random, others)
    return body


def _bits(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    changed = bytearray(body)
    for _ in range(random.randint(1, 4) if body else 0):
        changed[random.randrange(len(body))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    start, end = sorted((random.randint(0, len(body)), random.randint(0, len(body))))
    return body[:end] if random.random() < 0.5 else body[:start] + body[end:]


def _twice(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    start, end = sorted((random.randint(0, len(body)), random.randint(0, len(body))))
    return body[:end] + body[start:end] * random.randint(1, 3) + body[end:]


def _spliced(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    other = random.choice(others) if others else body
    return body[: random.randint(0, len(body))] + other[random.randint(0, len(other)) :]


def _opcodes(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Some opcodes dropped, repeated, moved, or from another pickle."""
    found = pieces(body)
    start = random.randint(0, len(found))
    run = found[start : start + random.choice((1, 1, 1, 2, 5, 20))]
    match random.randrange(4):
        case 0:
            del found[start : start + len(run)]
        case 1:
            found[start:start] = run * random.randint(1, 3)
        case 2:
            del found[start : start + len(run)]
            place = random.randint(0, len(found))
            found[place:place] = run
        case _:
            other = pieces(random.choice(others)) if others else found
            place = random.randint(0, len(other))
            found[start : start + random.randint(0, 1)] = other[place : place + random.randint(1, 5)]
    return b"".join(found)


def _value(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """A value in another one's place: one from this pickle, from another one, or a small one."""
    found = numbered(pieces(body))
    spans = values(found)
    if not spans:
        return body
    start, end = random.choice(spans)
    match random.randrange(4):
        case 0:
            value = random.choice(_SMALL)
        case 1:
            count = random.randrange(4)
            numbers = [opcode(0x8A, random.choice(NUMBERS).to_bytes(9, "little"), 0) for _ in range(count)]
            value = b"(" + b"".join(numbers) + b"t"
        case _:
            source = pieces(random.choice(others)) if others and random.random() < 0.5 else found
            first, last = random.choice(values(source) or [(0, 0)])
            value = b"".join(piece for piece in source[first:last] if piece[0] not in _PUTS)
    return b"".join((*found[:start], value, *found[end:]))


def _argument(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """One opcode changed, or its argument, with a length that fits; bytes by changes as if they were a pickle."""
    found = pieces(body)
    if not found:
        return body
    place = random.randrange(len(found))
    piece = found[place]
    code, number = piece[0], random.choice(NUMBERS) + random.choice((0, 0, 0, 1, -1))
    if code in _COUNTED and code in _NESTED and random.random() < 0.8:
        argument = piece[1 + _COUNTED[code] :]
        found[place] = opcode(code, random.choice(_INNER)(argument, random, others), 0)
    else:
        kept = code in OPCODES and random.random() < 0.5
        code = code if kept else random.choice(OPCODES)
        found[place] = claim(code, number) if random.random() < 0.1 else opcode(code, piece[1:], number)
    return b"".join(found)


def _nested(body: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """The longest bytes in it changed: they are a storage's file, more often than not."""
    found = pieces(body)
    places = [place for place, piece in enumerate(found) if piece[0] in _NESTED and len(piece) > 100]
    if not places:
        return _argument(body, random, others)
    place = random.choice(places)
    code = found[place][0]
    argument = found[place][1 + _COUNTED[code] :]
    found[place] = opcode(code, random.choice(_INNER)(argument, random, others), 0)
    return b"".join(found)


_INNER: Final[tuple[Change, ...]] = (_bits, _cut, _twice, _opcodes, _argument, _value, _value)
_CHANGES: Final[tuple[Change, ...]] = (*_INNER, _spliced, _opcodes, _argument, _value, _nested, _nested)
