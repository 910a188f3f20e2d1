"""Two records of one past: where they part."""

from dataclasses import dataclass

from flserver.store.reader import Reader, Row


@dataclass(frozen=True, kw_only=True)
class Fork:
    """The last event that two databases have in common (0: none), and the next one of each (None: it has no more)."""

    common: int
    ours: Row | None
    theirs: Row | None


def fork(one: Reader, other: Reader) -> Fork:
    """Where the chain of ``one`` and that of ``other`` part.

    A digest stands for all events before it, so the place is found by halves. What the rows say is believed:
    verification is what holds each chain against itself. Raises UsageError.
    """
    least, most = 0, min(one.head()[0], other.head()[0])  # they agree at ``least``, and nowhere after ``most``
    while least < most:
        middle = (least + most + 1) // 2
        ours, theirs = one.event(middle), other.event(middle)
        if ours is not None and theirs is not None and ours["digest"] == theirs["digest"]:
            least = middle
        else:
            most = middle - 1
    return Fork(common=least, ours=one.event(least + 1), theirs=other.event(least + 1))
