"""The hash chain over the events: pure functions of rows.

A row's digest covers everything in it but payload and salt, and with ``previous_digest`` all rows before it. The
payload is covered through ``payload_digest``. That one is salted: once a payload is purged (payload and salt set to
NULL), nobody can confirm a guess at what it was, and the chain still verifies.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

GENESIS = "sha256:" + "0" * 64
MAX_PROBLEMS = 100  # told by one verification: who has as many needs no more to know that the record is broken


def canonical(
    *, seq: int, run_id: str, process_id: int, type: str, at: str, payload_digest: str, previous_digest: str
) -> bytes:
    """The columns of an events row that its digest covers, as canonical JSON, written out since it is always the
    same."""
    return (
        f'{{"at":{quoted(at)},"payload_digest":{quoted(payload_digest)},"previous_digest":{quoted(previous_digest)},'
        f'"process_id":{process_id},"run_id":{quoted(run_id)},"seq":{seq},"type":{quoted(type)}}}'
    ).encode()


@dataclass(frozen=True, kw_only=True)
class Link:
    """The columns of an events row that its digest covers. ``seq`` counts from 1; digests are ``sha256:hex``."""

    seq: int
    run_id: str
    process_id: int
    type: str
    at: str
    payload_digest: str
    previous_digest: str

    def canonical(self) -> bytes:
        """The columns as canonical JSON."""
        return canonical(**vars(self))

    def digest(self) -> str:
        """``sha256:hex`` of that."""
        return sha256_of(self.canonical())


_COVERED = tuple(Link.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What :func:`verify` found: how many events there are, how many payloads of them are purged.

    ``head`` is the digest that the last row states, to compare with one noted elsewhere: rows cut off at the end leave
    a shorter chain that is whole. ``problems`` are the first ``MAX_PROBLEMS``, one sentence each; none means that the
    chain holds.
    """

    events: int
    purged: int
    head: str
    problems: tuple[str, ...]


def payload_digest(salt: str, payload: str) -> str:
    """``sha256:hex`` of the salt's bytes, which ``salt`` gives as hexadecimal digits, and the payload's UTF-8.

    Raises ValueError where ``salt`` is not that.
    """
    return sha256_of(bytes.fromhex(salt) + payload.encode())


class Chain:
    """Follows the rows of ``events``, in ascending order of ``seq``, and tells what is wrong with each."""

    def __init__(self) -> None:
        self.events = self.purged = 0
        self.head = GENESIS
        self._next = 1
        self._follows = {GENESIS}  # what the next row may say of this one: what it states, and what it should state

    def problem(self, row: Mapping[str, Any]) -> str | None:
        """What is wrong with the next row, which has all its columns; None where it holds.

        One change is one problem: each row is held against the row before as that is, whatever was wrong there.
        """
        link = Link(**{name: row[name] for name in _COVERED})
        digest, expected, follows = link.digest(), self._next, self._follows
        self.events += 1
        self.purged += row["payload"] is None
        self.head, self._next = row["digest"], link.seq + 1
        self._follows = {self.head, digest}
        if link.previous_digest not in follows:
            return "does not follow the row before it: a row was removed, inserted or moved here"
        if digest != self.head:
            return "the row was changed"
        if link.seq != expected:
            return f"stands at place {expected}"
        if row["payload"] is not None and not _payload_matches(row):
            return "the payload was changed"
        return None


def verify(rows: Iterable[Mapping[str, Any]]) -> Verification:
    """Check the rows of ``events``: all of them, with all their columns, in ascending order of ``seq``."""
    chain = Chain()
    problems: list[str] = []
    for row in rows:
        problem = chain.problem(row)
        if problem and len(problems) < MAX_PROBLEMS:
            problems.append(f"event {row['seq']}: {problem}")
    return Verification(events=chain.events, purged=chain.purged, head=chain.head, problems=tuple(problems))


def _payload_matches(row: Mapping[str, Any]) -> bool:
    salt = row["salt"]
    try:
        written = bytes.fromhex(salt).hex() == salt  # there is one way to write it
        return written and bool(payload_digest(salt, row["payload"]) == row["payload_digest"])
    except (TypeError, ValueError):  # a salt that is gone or is not hex
        return False


def sha256_of(data: bytes) -> str:
    """``sha256:hex``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
