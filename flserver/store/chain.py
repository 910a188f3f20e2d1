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
        """The columns as canonical JSON, written out here since it is always the same."""
        return (
            f'{{"at":{quoted(self.at)},"payload_digest":{quoted(self.payload_digest)},'
            f'"previous_digest":{quoted(self.previous_digest)},"process_id":{self.process_id},'
            f'"run_id":{quoted(self.run_id)},"seq":{self.seq},"type":{quoted(self.type)}}}'
        ).encode()

    def digest(self) -> str:
        """``sha256:hex`` of that."""
        return _sha256(self.canonical())


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
    return _sha256(bytes.fromhex(salt) + payload.encode())


def verify(rows: Iterable[Mapping[str, Any]]) -> Verification:
    """Check the rows of ``events``: all of them, with all their columns, in ascending order of ``seq``.

    A changed row is one problem, not one for each row after it: every row is compared with what the row before states.
    """
    events = purged = 0
    head = GENESIS
    problems: list[str] = []
    for row in rows:
        events += 1
        problem = _problem(row, events, head)
        if problem and len(problems) < MAX_PROBLEMS:
            problems.append(f"event {row['seq']}: {problem}")
        purged += row["payload"] is None
        head = row["digest"]
    return Verification(events=events, purged=purged, head=head, problems=tuple(problems))


def _problem(row: Mapping[str, Any], position: int, previous: str) -> str | None:
    link = Link(**{name: row[name] for name in Link.__dataclass_fields__})
    if link.previous_digest != previous:
        return "does not follow the row before it: a row was removed, inserted or moved here"
    if link.digest() != row["digest"]:
        return "the row was changed"
    if link.seq != position:
        return f"stands at place {position}"
    if row["payload"] is not None and not _payload_matches(row):
        return "the payload was changed"
    return None


def _payload_matches(row: Mapping[str, Any]) -> bool:
    try:
        return bool(payload_digest(row["salt"], row["payload"]) == row["payload_digest"])
    except (TypeError, ValueError):  # a salt that is gone or is not hex
        return False


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
