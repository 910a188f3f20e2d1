"""Proofs as text. Pure.

That a log only grew: what C2SP's tlog-witness takes, ``old SIZE``, the hashes of the proof, an empty line, the head.
That something is in a log: C2SP's tlog-proof, whose extra data is the event as its digest covers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from flserver.errors import HeadError
from flserver.heads.note import HASH_BYTES, MOST_BYTES, Note, decoded, encoded, number

INCLUSION = "c2sp.org/tlog-proof@v1"
ROWS = "flserver-rows/v1"
"""What a file with a client's rows is, as it says itself: lines of JSON, each event with its payload and its proof."""
MOST_HASHES = 63
"""Of a proof: a tree of 2**63 leaves has paths of as many."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """A head, and the proof that its tree begins with that of the first ``old`` leaves (0: of nothing)."""

    old: int
    proof: tuple[bytes, ...]
    head: Note

    @classmethod
    def parse(cls, text: str) -> Self:
        """A head alone, or with what stands before it. Raises HeadError."""
        first, gap, rest = text.partition("\n\n")
        if not first.startswith("old ") or not gap:
            return cls(old=0, proof=(), head=Note.parse(text))
        start, *hashes = first.split("\n")
        return cls(old=number(start.removeprefix("old ")), proof=_hashes(hashes), head=Note.parse(rest))

    def __str__(self) -> str:
        return "\n".join([f"old {self.old}", *map(encoded, self.proof), "", str(self.head)])


@dataclass(frozen=True, kw_only=True)
class Inclusion:
    """The proof that the event with the sequence number ``index`` + 1, which is ``extra`` (its columns as canonical
    JSON), is in the tree of ``head``."""

    extra: bytes
    index: int
    proof: tuple[bytes, ...]
    head: Note

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises HeadError."""
        if len(text) > 4 * MOST_BYTES:
            raise HeadError("a proof that is too long")
        first, gap, head = text.partition("\n\n")
        title, *lines = first.split("\n")
        extra = lines.pop(0).removeprefix("extra ") if lines and lines[0].startswith("extra ") else ""
        if title != INCLUSION or not gap or not lines or not lines[0].startswith("index "):
            raise HeadError(f"what should be a proof does not begin with {INCLUSION}, extra data and an index")
        index = number(lines.pop(0).removeprefix("index "))
        return cls(extra=decoded(extra), index=index, proof=_hashes(lines), head=Note.parse(head))

    def __str__(self) -> str:
        lines = [INCLUSION, f"extra {encoded(self.extra)}", f"index {self.index}", *map(encoded, self.proof)]
        return "\n".join([*lines, "", str(self.head)])


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MOST_HASHES:
        raise HeadError(f"a proof of more than {MOST_HASHES} hashes")
    found = tuple(map(decoded, lines))
    if any(len(one) != HASH_BYTES for one in found):
        raise HeadError("a proof with what is no hash")
    return found
