"""The events of a bundle, a line each: the columns that an event's digest covers, and what else may be shown of it."""

import json
from collections.abc import Iterator
from typing import Any

from flserver import events as e
from flserver.evidence.verify import canonical
from flserver.heads.tree import inclusion_proof
from flserver.store.chain import Link
from flserver.store.reader import Row
from flserver.store.tree import StoredNodes

SHOWN = frozenset(
    kind.__name__
    for kind in (
        *(e.AttemptStarted, e.UpdateReceived, e.RoundCommitted, e.CheckpointDeleted, e.KeptUpdatesDeleted),
        *(e.HeadSigned, e.RunEnded, e.ServerStopped),
    )
)
"""The kinds of events without addresses, certificates, info, settings and free text."""


def written(rows: Iterator[Row], nodes: StoredNodes, size: int, personal: bool) -> Iterator[bytes]:
    """The lines of ``events.jsonl`` for the rows of events, in ascending order. Payloads, with their salts, are there
    where they can be shown, or all with ``personal`` data.

    An event whose next one follows right behind it needs no proof: that one's digest covers it. The others have their
    inclusion proof in the tree of ``size`` leaves.
    """
    row = next(rows, None)
    while row is not None:
        after = next(rows, None)
        line: dict[str, Any] = {"event": {name: row[name] for name in Link.__dataclass_fields__}}
        if row["payload"] is not None and (personal or _shown(row)):
            line |= {"payload": row["payload"], "salt": row["salt"]}
        if after is None or after["seq"] != row["seq"] + 1:
            line["proof"] = [one.hex() for one in inclusion_proof(nodes, row["seq"] - 1, size)]
        yield canonical(line) + b"\n"
        row = after


def _shown(row: Row) -> bool:
    """Whether a payload names nobody but by client id. A rejected update's reason repeats what came from outside."""
    return row["type"] in SHOWN and json.loads(row["payload"]).get("reason") is None
