"""Proofs about the record, made of the tree over its events, for whoever holds a signed head of it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flserver.errors import HeadError, Rewritten, UsageError
from flserver.heads.note import Checkpoint, Note, encoded
from flserver.heads.proofs import ROWS, Extension, Inclusion
from flserver.heads.tree import consistency_proof, frontier, inclusion_proof
from flserver.store.chain import Link
from flserver.store.tree import StoredNodes
from flserver.store.tree_reader import TreeReader


def newest_head(reader: TreeReader) -> Note:
    """The newest signed head on record. Raises UsageError where there is none."""
    found = reader.newest_head()
    if found is None:
        raise UsageError("no head is signed in this record: --sign-key FILE has a server sign them")
    return Note.parse(found)


def extension(reader: TreeReader, old: Checkpoint | int, head: Note) -> Extension:
    """That ``head`` extends an earlier one, or that of so many events.

    Raises Rewritten where the record does not have one of the two, HeadError where the later comes first.
    """
    checkpoint = Checkpoint.parse(head.text)
    size = old if isinstance(old, int) else old.size
    if size > checkpoint.size:
        raise HeadError(f"the newest head is of {checkpoint.size} events, and not of {size} or more")
    with reader.nodes() as nodes:
        for one in (checkpoint,) if isinstance(old, int) else (old, checkpoint):
            _require(nodes, one)
        proof = consistency_proof(nodes, size, checkpoint.size)
    return Extension(old=size, proof=tuple(proof), head=head)


def inclusion(reader: TreeReader, seq: int, head: Note) -> Inclusion:
    """That the event with the number ``seq`` is in the record that ``head`` is of.

    Raises UsageError where there is none, HeadError where it came later, Rewritten where the record is another.
    """
    row = reader.event_row(seq)
    if row is None:
        raise UsageError(f"there is no event {seq}")
    checkpoint = Checkpoint.parse(head.text)
    if seq > checkpoint.size:
        raise HeadError(f"the head is of {checkpoint.size} events: event {seq} is in a later one")
    with reader.nodes() as nodes:
        _require(nodes, checkpoint)
        proof = tuple(inclusion_proof(nodes, seq - 1, checkpoint.size))
    return Inclusion(extra=_link(row).canonical(), index=seq - 1, proof=proof, head=head)


def event_of(reader: TreeReader, what: str) -> int:
    """The number of the event that ``what`` means: its own, ``update:ID`` the update's, ``RUN:ROUND`` the committed
    round's. Raises UsageError."""
    if what.isdecimal():
        return int(what)
    run, colon, number = what.rpartition(":")
    if not colon or not number.isdecimal():
        raise UsageError(f"{what!r} is no event's number, no update:ID and no RUN:ROUND")
    if run == "update":
        found = reader.event_of_update(int(number))
        if found is None:
            raise UsageError(f"there is no update {number}, or what it was is purged: name its event by number")
        return found
    return int(reader.committed_round(reader.run(run)["run_id"], int(number))["event_seq"])


def round_of(reader: TreeReader, seq: int) -> Mapping[str, Any] | None:
    """Which committed round the event with that number is: run_id, round, attempt and model_digest; None where it is
    none."""
    columns, rows = reader.query(_ROUND, {"seq": seq})
    return dict(zip(columns, rows[0], strict=True)) if rows else None


_ROUND = "SELECT run_id, round, attempt, model_digest FROM v1_rounds WHERE event_seq = :seq AND status = 'committed'"


def own_rows(reader: TreeReader, client: str, head: Note) -> Iterator[str]:
    """Lines of JSON: first what this is, then every event that is about ``client`` alone and that ``head`` covers, with
    payload, salt and its proof. Raises Rewritten where the record is not that of ``head``."""
    yield json.dumps({"format": ROWS, "client": client, "head": str(head)})
    size = Checkpoint.parse(head.text).size
    with reader.nodes() as nodes:
        _require(nodes, Checkpoint.parse(head.text))
        for row in reader.events_of_client(client, size):
            proof = [encoded(one) for one in inclusion_proof(nodes, row["seq"] - 1, size)]
            yield json.dumps(
                {"event": vars(_link(row)), "payload": row["payload"], "salt": row["salt"], "proof": proof}
            )


def _link(row: Mapping[str, Any]) -> Link:
    return Link(**{name: row[name] for name in Link.__dataclass_fields__})


def _require(nodes: StoredNodes, checkpoint: Checkpoint) -> None:
    """Raises Rewritten where the record has other events than ``checkpoint`` is of."""
    if checkpoint.size > nodes.size:
        raise Rewritten(f"this record has {nodes.size} events, and the head is of {checkpoint.size}")
    if frontier(nodes, checkpoint.size).root != checkpoint.root:
        raise Rewritten(f"the first {checkpoint.size} events of this record are not those that the head is of")
