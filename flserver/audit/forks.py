"""Two records of one past: where they part."""

from dataclasses import dataclass

from flserver.store.chain import Link
from flserver.store.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Fork:
    """The last event that two databases have in common (0: none), and the next one of each (None: it has no more)."""

    common: int
    ours: Link | None
    theirs: Link | None


def fork(one: Reader, other: Reader) -> Fork:
    """Where the chain of ``one`` and that of ``other`` part.

    A digest stands for all events before it, so the place is found by halves. What the rows say is believed:
    verification is what holds each chain against itself. Raises UsageError.
    """
    ends = (one.head(), other.head())
    least, most = 0, min(0 if end is None else end.seq for end in ends)  # they agree at one, nowhere after the other
    while least < most:
        middle = (least + most + 1) // 2
        ours, theirs = one.event(middle), other.event(middle)
        if ours is not None and theirs is not None and ours == theirs:
            least = middle
        else:
            most = middle - 1
    return Fork(common=least, ours=one.event(least + 1), theirs=other.event(least + 1))
