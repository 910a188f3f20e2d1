"""What a node and the coordinator's desk say of one small upload, as bytes: microseconds of processor time, each way.

python -m tests.bench.line
"""

import json
import time
from collections.abc import Callable

from flserver import events
from flserver.identity.peer import Peer
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.batches import Item, from_bytes, to_bytes
from flserver.models.norms import Norms
from flserver.rounds.seats import Registration
from flserver.store.payloads import from_payload, to_payload

REPEATS = 2000
DIGEST = "blake3:" + "a" * 64
CLIENT = "client-7"
EVENTS: tuple[events.Event, ...] = (
    events.ConnectionOpened(connection_id=12, peer_host="127.0.0.1", peer_port=45678, transport="tcp"),
    events.MessageReceived(
        message_id=5, connection_id=12, client_id=CLIENT, round=3, header="<MODEL>", encoding="pickle", bytes=31000,
        digest=DIGEST, seconds=0.001234567, outcome="ok", reason=None,
    ),
    events.UpdateReceived(
        update_id=9, message_id=5, connection_id=12, client_id=CLIENT, answers_round=3, answers_attempt=1,
        arrived_round=3, decision=None, reason=None, update_digest=DIGEST, data_size=10, counted_size=10, bytes=31000,
        wait_seconds=0.0123, upload_seconds=0.00123, update_norm=1.23456789, update_cosine=0.123456,
        parameters_norm=1.2345, buffers_norm=None, identity="claimed", metrics=(),
    ),
    events.ConnectionClosed(
        connection_id=12, purpose="upload", client_id=CLIENT, reason="closed", bytes_in=31000, bytes_out=0
    ),
    events.MessageSent(
        message_id=6, connection_id=2, client_id=CLIENT, round=3, attempt=1, header="<MODEL>", encoding="pickle",
        bytes=31000, digest=DIGEST, seconds=0.0001, sent_at="2026-01-31T09:00:00.000000Z", outcome="ok", reason=None,
    ),
)  # fmt: skip


def of_an_upload() -> tuple[list[Item], list[Item]]:
    """What the node says, and the desk."""
    emitted = [t.Emitted(type(event).__name__, to_payload(event), True) for event in EVENTS]
    peer, norms = Peer(host="127.0.0.1", port=45678), Norms(1.2345, 2.3456)
    offer = q.Offer(9, CLIENT, peer, 3, DIGEST, None, norms, 0.123456, 2)
    decided = q.Decided(None, None, q.Answers(3, 1, 0.0123), 10, 3, 10, False)
    ticket = t.Ticket(Registration(CLIENT, 1, False), 3, 1, 4, True)
    facts = (t.Accepted(3), *emitted, t.Confirmed(9, True, ()), t.Ended(3), t.FullySent(4))
    return [Item(offer, 7), *map(Item, facts)], [Item(decided, 7), Item(ticket), Item(t.Room(5, 1500))]


def line() -> dict[str, float]:
    """``node_us``: what the node says into bytes, and what it is told out of them; ``desk_us``: the other way round,
    and its events read; ``bytes``: of both."""
    up, down = of_an_upload()
    said, told = to_bytes(up), to_bytes(down)
    payloads = [item.said for item in up if isinstance(item.said, t.Emitted)]
    return {
        "node_us": _us(lambda: to_bytes(up)) + _us(lambda: from_bytes(told)),
        "desk_us": _us(lambda: from_bytes(said))
        + _us(lambda: to_bytes(down))
        + _us(lambda: [from_payload(each.kind, each.payload) for each in payloads]),
        "bytes": len(said) + len(told),
    }


def _us(call: Callable[[], object]) -> float:
    call()
    began = time.thread_time()
    for _ in range(REPEATS):
        call()
    return round((time.thread_time() - began) / REPEATS * 1e6, 1)


if __name__ == "__main__":
    print(json.dumps(line()))
