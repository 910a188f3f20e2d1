"""A record copied from one database into another, of whichever kind: verified before, and after."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flserver.audit.report import spoils
from flserver.audit.verify import Verification
from flserver.errors import UsageError
from flserver.files import create, sync_folder
from flserver.settings.places import Place
from flserver.store.chain import GENESIS
from flserver.store.database import Lock, at
from flserver.store.reader import Reader
from flserver.store.schema import check, ensure_head
from flserver.store.transfer import copy_record, remove_record, verified


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A record of so many ``events`` was copied, whose chain ends with ``head``. Where there are ``problems``, a line
    each, it was not: they are those of the database ``wrong``."""

    events: int = 0
    head: str = GENESIS
    problems: tuple[str, ...] = ()
    wrong: Place | None = None


def copy_to(source: Place, target: Place) -> Moved:
    """Copy the record at ``source`` to ``target``, where there is none yet; nobody else has either meanwhile.

    Raises UsageError where there is nothing to copy, or something at the target.
    """
    state = check(source)
    if state.current is None:
        raise UsageError(f"there is no database {source}")
    if not state.at_head:
        raise UsageError(f"{source} is of an older version: flserver --db {source} db upgrade, which keeps a copy")
    with at(source).lock():
        if problems := _problems(source):
            return Moved(problems=problems, wrong=source)
        head = Reader(source).head()
        events, digest = (head.seq, head.digest()) if head else (0, GENESIS)
        with at(target).lock(stays=False) as lock, _made(target, lock) as made:
            copy_record(at(source), at(made.place), lock)
            made.copied = True
            there = Reader(made.place).head()
            made.problems = _problems(made.place)
            if (there.seq, there.digest()) != (events, digest) if there else events:
                made.problems = (*made.problems, f"the copy does not end with event {events}, {digest}")
        return Moved(events=events, head=digest, problems=made.problems, wrong=target if made.problems else None)


@dataclass
class _Made:
    """Where a copy is made, whether it has been, and what is wrong with it."""

    place: Place
    copied: bool = False
    problems: tuple[str, ...] = ()


@contextmanager
def _made(target: Place, lock: Lock) -> Iterator[_Made]:
    """An empty database, which is the one at ``target`` after the block, whose ``lock`` it is; where that fails, or
    there are problems, nothing is there. Raises UsageError where there is something already."""
    if isinstance(target, Path):
        for there in (target, *(target.with_name(f"{target.name}{end}") for end in ("-wal", "-journal"))):
            if os.path.lexists(there):
                raise UsageError(f"{there} is there already: name a database that is not, or move it away")
        made = _Made(target.with_name(f".{target.name}.copying"))
        assert isinstance(made.place, Path)
        try:
            made.place.unlink(missing_ok=True)
            with at(made.place).errors():
                os.close(create(made.place))
            ensure_head(made.place)
            yield made
            if not made.problems:
                os.rename(made.place, target)
                sync_folder(target.parent)
        finally:
            made.place.unlink(missing_ok=True)
    else:
        ensure_head(target, lock=lock)
        made, stays = _Made(target), False
        try:
            yield made
            if not made.problems:
                verified(at(target), lock)
                stays = True
        finally:
            if made.copied and not stays:  # what was there before is nobody's to remove
                remove_record(at(target), lock)


def _problems(place: Place) -> tuple[str, ...]:
    return tuple(finding.line for finding in Verification(place, with_checkpoints=False).run() if spoils(finding))
