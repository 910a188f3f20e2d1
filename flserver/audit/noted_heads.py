"""The chain's heads noted elsewhere (``--audit-head``), and the record held against them.

A line each: ``seq digest run round time``; the round is ``-`` where none is committed yet. Who notes one by hand, from
a letter say, may leave out what comes after the digest.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flserver.audit.report import Finding, limited
from flserver.errors import UsageError
from flserver.files import open_regular

LINE = re.compile(r"([1-9][0-9]{0,18}) (sha256:[0-9a-f]{64})(?: (\S+) (-|[0-9]+) (\S+))?")
NAMED = 10


@dataclass(frozen=True, kw_only=True)
class Head:
    """The chain's head as it was noted: the last event's number and digest, and of what: the run, its last round, and
    when; None where only the head itself was noted."""

    seq: int
    digest: str
    of: tuple[str, str, str] | None

    def __str__(self) -> str:
        if self.of is None:
            return "a noted head"
        run, round, at = self.of
        return f"head of {at}, round {round} of run {run}"


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What a file of heads says: the ``heads``, in its order, and which of its lines cannot be read."""

    file: Path
    heads: Sequence[Head]
    unreadable: Sequence[int]


def read_heads(file: Path) -> Heads:
    """The heads noted in ``file``. What is cut off at its end, where the server died as it wrote, is passed over.

    Raises UsageError where it cannot be read, or has no head.
    """
    try:
        with open_regular(file) as opened:
            lines = opened.readall().decode("utf-8", "replace").split("\n")
    except OSError as error:
        raise UsageError(f"--audit-head {file}: {error.strerror}") from error
    heads, unreadable = [], []
    for number, line in enumerate(lines, 1):
        if match := LINE.fullmatch(line):
            seq, digest, run, round, at = match.groups()
            heads.append(Head(seq=int(seq), digest=digest, of=(run, round, at) if run else None))
        elif number < len(lines):
            unreadable.append(number)
    if not heads:
        raise UsageError(
            f"--audit-head {file}: no head of a record is noted there; a line is an event's number and its digest"
            " (NUMBER sha256:…), as the server notes them"
        )
    return Heads(file=file, heads=heads, unreadable=unreadable)


def check_heads(noted: Heads, events: int, digest_at: Callable[[int], str | None]) -> Iterator[Finding]:
    """Whether the record still has every head that was noted: of ``events`` events, ``digest_at`` gives the digests."""
    for number in noted.unreadable:
        line = f"line {number} of {noted.file} is no head of a record"
        yield Finding(check="head", outcome="unknown", line=line, where={"line": number})
    broken = 0
    for finding in limited(_wrong(noted, events, digest_at), NAMED, f"{noted.file}"):
        broken += finding.count
        yield finding
    if not broken:
        last = noted.heads[-1]
        line = f"the record has each of the {len(noted.heads)} heads in {noted.file}, the last at event {last.seq}"
        yield Finding(check="head", outcome="holds", line=line)
        if (after := events - max(head.seq for head in noted.heads)) > 0:
            line = f"{after} events stand after the last head in {noted.file}: whether they are the ones that were"
            line += " recorded cannot be told"
            yield Finding(check="head", outcome="unknown", line=line, count=after, where={"seq": last.seq})


def _wrong(noted: Heads, events: int, digest_at: Callable[[int], str | None]) -> Iterator[Finding]:
    for head in noted.heads:
        found = digest_at(head.seq)
        if found == head.digest:
            continue
        what = (
            f"the record has {events} events: its end was cut off"
            if found is None
            else f"the record has {found} there: it was written anew, unless the head was noted wrongly"
        )
        line = f"{head}: event {head.seq} was {head.digest}; {what}"
        yield Finding(check="head", outcome="broken", line=line, where={"seq": head.seq, "digest": head.digest})
