"""Every event there is, made with values that hold for most tests: a test names only what it is about.

``opened()`` is one of connection 1, ``opened(7, transport="tls")`` another one: what has no name goes to the fields in
the order in which they stand here, and every field can be named.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flserver import events as e

RUN = "20260131-090000-abcdef"
Made = TypeVar("Made")


def maker(kind: Callable[..., Made], /, **defaults: Any) -> Callable[..., Made]:
    def make(*values: Any, **given: Any) -> Made:
        assert len(values) <= len(defaults), f"{kind.__name__} has no {len(values)} values to give in order"
        return kind(**(defaults | dict(zip(defaults, values, strict=False)) | given))

    return make


# --- the run ---------------------------------------------------------------------------------------------------------

run_started = maker(
    e.RunStarted,
    run_id=RUN,
    name="night",
    num_rounds=2,
    model="neural_net_helper:NeuralNet",
    strategy="fedavg",
    seed=2**63 - 1,
    config={"num_rounds": 2, "round_timeout": 3600.0},
    parent_run_id=None,
    parent_round=None,
)
run_resumed = maker(e.RunResumed, from_round=1, num_rounds=3, run_id=RUN, config={})
run_left_over = maker(e.RunLeftOver, run_id=RUN, reason="server stopped")
run_ended = maker(e.RunEnded, status="completed", final_digest="sha256:1", run_id=RUN)
server_started = maker(
    e.ServerStarted,
    process_id=1,
    host="host",
    user="user",
    pid=4711,
    server_version="0.1.0",
    python_version="3.11",
    torch_version="2.14",
    overrides={},
    resumed_from_round=None,
)
server_stopped = maker(e.ServerStopped, exit_code=0, process_id=1)
operator_acted = maker(e.OperatorActed, kind="start", detail={"argv": ["flserver"]})
head_signed = maker(
    e.HeadSigned, size=1, root="sha256:aa", key="log+aabbccdd+AQ", note="log\n1\nqg==\n\n— log YWJjZGU=\n"
)
state_changed = maker(e.StateChanged, state="joining")
waited = maker(
    e.Waited,
    seconds=10.0,
    answered=1,
    missing=1,
    clients=("2",),
    seconds_left=3590.0,
    awaited="updates",
    round=1,
)
payloads_purged = maker(
    e.PayloadsPurged,
    run_id=RUN,
    sequences=((3, 4), (9, 9)),
    rows=(e.RestingRow(table="clients", key=(RUN, "1", 1), digest="sha256:aa"),),
)
quorum_settled = maker(e.QuorumSettled, min_updates=2)

# --- connections and messages ----------------------------------------------------------------------------------------

opened = maker(e.ConnectionOpened, connection_id=1, peer_host="192.0.2.7", peer_port=40000, transport="tcp")
identified = maker(
    e.PeerIdentified,
    connection_id=1,
    peer_host="10.0.0.7",
    peer_port=40000,
    proxy_host="127.0.0.1",
    transport="tls",
    certificate_subject="commonName=1",
    certificate_fingerprint="sha256:cc",
)
closed = maker(
    e.ConnectionClosed,
    connection_id=1,
    purpose="unknown",
    client_id=None,
    reason="closed",
    bytes_in=8,
    bytes_out=0,
)


def received(
    message_id: int = 1, header: str | None = "<METADATA>", outcome: str = "ok", bytes: int = 58, **more: Any
) -> e.MessageReceived:
    defaults = {
        "connection_id": 1,
        "client_id": None,
        "round": None,
        "encoding": "json",
        "digest": None,
        "seconds": 0.0,
        "reason": None if outcome == "ok" else "it broke a limit",
    }
    message = {"message_id": message_id, "header": header, "outcome": outcome, "bytes": bytes}
    return e.MessageReceived(**(defaults | message | more))


def sent(
    message_id: int = 1, client_id: str = "1", round: int = 1, attempt: int = 1, outcome: str = "ok", **more: Any
) -> e.MessageSent:
    """A model that was sent to a client, on the connection with its number."""
    defaults = {
        "connection_id": int(client_id),
        "header": "<MODEL>",
        "encoding": "pickle",
        "bytes": 1008,
        "digest": "sha256:aa",
        "seconds": 0.25,
        "sent_at": "2026-01-31T09:00:01.000000Z",
        "reason": None if outcome == "ok" else "reset",
    }
    message = {"message_id": message_id, "client_id": client_id, "round": round, "attempt": attempt, "outcome": outcome}
    return e.MessageSent(**(defaults | message | more))


def registered(
    client_id: str = "1", connection_id: int = 1, registration: int = 1, data_size: int = 100, **more: Any
) -> e.ClientRegistered:
    defaults = {
        "client_id": client_id,
        "registration": registration,
        "connection_id": connection_id,
        "identity": "claimed",
        "data_size": data_size,
        "info": {"epochs": 8},
        "rejoined": registration > 1,
        "metadata": {"data_size": data_size, "id": client_id},
    }
    return e.ClientRegistered(**(defaults | more))


strangers_summed = maker(
    e.StrangersSummed,
    connections=5,
    messages=5,
    message_bytes=300,
    answers=3,
    failed_answers=1,
    bytes_in=300,
    bytes_out=240,
    reason="registration",
    purpose="register",
    header="<METADATA>",
    outcome="refused",
    prefix="10.0.0.0/24",
    minute="2026-01-31T09:00:00.000000Z",
)
left = maker(e.ClientLeft, client_id="1", reason="closed", connection_id=1, registration=1)

# --- rounds and updates ----------------------------------------------------------------------------------------------


def attempt(
    round: int = 1, attempt: int = 1, clients: Sequence[str] = (), not_sent: Sequence[str] = (), **more: Any
) -> e.AttemptStarted:
    defaults = {
        "round": round,
        "attempt": attempt,
        "process_id": 1,
        "clients": tuple(clients),
        "not_sent": tuple(not_sent),
        "deadline_at": "2026-01-31T10:00:00.000000Z" if round else None,
        "base_digest": f"sha256:{round - 1}" if round else None,
    }
    return e.AttemptStarted(**(defaults | more))


client_metric = maker(e.ClientMetric, name="loss", value=0.5, measured_on="trained")


def update(
    update_id: int = 1,
    client_id: str = "1",
    answers: tuple[int, int] | None = (1, 1),
    decision: str | None = None,
    reason: str | None = None,
    **more: Any,
) -> e.UpdateReceived:
    """An update that answers an attempt at a round, or nothing."""
    number, tried = answers or (None, None)
    defaults = {
        "update_id": update_id,
        "message_id": update_id,
        "connection_id": 1,
        "client_id": client_id,
        "answers_round": number,
        "answers_attempt": tried,
        "arrived_round": number,
        "decision": decision,
        "reason": reason,
        "update_digest": "blake3:cc",
        "data_size": 100,
        "bytes": 1008,
        "wait_seconds": 1.5,
        "upload_seconds": 0.5,
        "update_norm": 2.0,
        "update_cosine": 0.25,
    }
    return e.UpdateReceived(**(defaults | more))


def node_started(number: int = 1, slot: int | None = None) -> e.NodeStarted:
    made_of: dict[str, Any] = {"code": {"flserver": "sha256:aa"}, "libraries": {"torch": "2.9.0"}, "cpu": "some"}
    where: dict[str, Any] = {"host": "fl-b", "pid": 4242 + number, "listen_host": "10.0.0.2", "listen_port": 50052}
    return e.NodeStarted(node=f"node-{number}", slot=number if slot is None else slot, **where, **made_of)


suspect_rejected = maker(
    e.SuspectRejected,
    update_id=1,
    client_id="1",
    round=1,
    attempt=1,
    reason="norm: the norm is 1e+09, more than 1000, 1000 times the largest of this run so far",
)
node_lost = maker(
    e.NodeLost,
    node="node-1",
    reason="its process ended",
    updates=(e.LostUpdate(update_id=1, client_id="1", round=1, attempt=1),),
)
node_ended = maker(e.NodeEnded, node="node-1", slot=1)
suspects_count = maker(
    e.SuspectsCount, clients=("1", "2"), there=3, round=1, attempt=1, reason="norm: the norm is 1e+09, more than 1000"
)


def answered(client_id: str, update_id: int | None = None, weight: float | None = None, **more: Any) -> e.ClientOutcome:
    defaults = {"participation": "answered", "update_id": update_id, "weight": weight, "seconds": 3.0}
    return e.ClientOutcome(client_id=client_id, **(defaults | more))


silent = maker(e.ClientOutcome, client_id="1", participation="timed_out")
round_metric = maker(e.RoundMetric, round=0, name="loss", value=0.5, source="server")


def committed(
    round: int = 1, attempt: int = 1, outcomes: Sequence[e.ClientOutcome] = (), **more: Any
) -> e.RoundCommitted:
    defaults = {
        "round": round,
        "attempt": attempt,
        "seconds": 4.0,
        "broadcast_seconds": 0.5,
        "wait_seconds": 3.0,
        "aggregate_seconds": 0.25,
        "evaluate_seconds": None,
        "checkpoint_seconds": 0.125,
        "data_size": 100 * sum(outcome.update_id is not None for outcome in outcomes),
        "model_digest": f"sha256:{round}",
        "checkpoint": f"{RUN}/round-{round:06d}-00.safetensors",
        "checkpoint_bytes": 31400,
        "loss": None,
        "accuracy": None,
        "metrics": (),
        "outcomes": tuple(outcomes),
    }
    return e.RoundCommitted(**(defaults | more))


def aborted(
    round: int = 1, attempt: int = 1, outcomes: Sequence[e.ClientOutcome] = (), **more: Any
) -> e.AttemptAborted:
    defaults = {
        "round": round,
        "attempt": attempt,
        "reason": "quorum",
        "seconds": 2.0,
        "broadcast_seconds": 0.5,
        "wait_seconds": 1.5,
        "outcomes": tuple(outcomes),
    }
    return e.AttemptAborted(**(defaults | more))


weight_concentrated = maker(e.WeightConcentrated, owner="client 1", weight=0.95, clients=("1",), round=1, attempt=1)
checkpoint_deleted = maker(e.CheckpointDeleted, round=0, attempt=1, checkpoint="…")
kept_updates_deleted = maker(e.KeptUpdatesDeleted, round=1)
