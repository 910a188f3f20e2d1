"""What two witnesses saw of one log, held against each other."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flserver.errors import Rewritten
from flserver.heads.keys import opened
from flserver.heads.note import Note, PublicKey


@dataclass(frozen=True)
class Agreement:
    """How many sizes both saw a head of, and the largest of them."""

    common: int
    largest: int


def compare(one: Iterable[tuple[Path, Note]], other: Iterable[tuple[Path, Note]], log: PublicKey) -> Agreement:
    """Raises Rewritten where ``log`` has signed two different heads of one size: it showed them two pasts. Raises
    HeadError where a head is not its own."""
    first, second = _by_size(one, log), _by_size(other, log)
    common = sorted(first.keys() & second.keys())
    for size in common:
        (path, root), (where, another) = first[size], second[size]
        if root != another:
            raise Rewritten(
                f"{log.name} showed two pasts: its heads of {size} events in {path} and {where} differ, "
                "and both bear its signature"
            )
    return Agreement(len(common), common[-1] if common else 0)


def _by_size(heads: Iterable[tuple[Path, Note]], log: PublicKey) -> dict[int, tuple[Path, bytes]]:
    found: dict[int, tuple[Path, bytes]] = {}
    for path, note in heads:
        checkpoint = opened(note, log)
        where, root = found.setdefault(checkpoint.size, (path, checkpoint.root))
        if root != checkpoint.root:
            raise Rewritten(f"{log.name} showed two pasts: its heads of {checkpoint.size} events in {where} and {path}")
    return found
