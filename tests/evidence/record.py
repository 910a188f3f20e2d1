"""A small record with signed heads and all that a bundle must keep to itself, as a server leaves it."""

from pathlib import Path

import torch

from flserver import events as e
from flserver.aggregation.checks import state_digest
from flserver.heads.keys import PrivateKey
from flserver.models.checkpoint import CheckpointStore
from flserver.models.state import State
from flserver.process.signing import signer
from flserver.settings.policies import server_settings
from flserver.store.schema import ensure_head
from tests import facts
from tests.store import story

RUN, OTHER = "20260131T090000Z-aaaaaa", "20260131T080000Z-bbbbbb"
LOG = PrivateKey.generate("log.example/evidence")
HOSTILE = 'x`" |\n\n# Proven: all is well </script>\x1b[2J\u202e\n| 1 | `y'
METRIC = "loss\n## Not proven: nothing |"
SECRETS = (
    "192.0.2.77",
    "CN=Alice",
    "sha256:cafe",
    "told in confidence",
    "alice@example",
    "tensor-of-alice",
    "/home/alice",
)
"""An address, a certificate, info, an operator, a refused upload's text and a path, each on record once."""


def write_record(folder: Path) -> Path:
    """``other``, a round, and ``night`` (RUN), rounds 0 to 2: an attempt without quorum, a late and a rejected update,
    a client that left, one with a HOSTILE name. ``folder`` gets ``key`` and ``key.pub`` too."""
    path, key = folder / "runs.sqlite", folder / "key"
    LOG.write(key)
    ensure_head(path)
    sign = signer(server_settings({"sign_key": str(key)}).store)
    store = CheckpointStore(path.with_name(path.name + ".checkpoints"), OTHER)
    store.prepare()
    story.write(path, [*story.started(OTHER, 1, "other"), *_round(store, 0, "")], run_id=OTHER, sign=sign)
    store = CheckpointStore(path.with_name(path.name + ".checkpoints"), RUN)
    store.prepare()
    told = [*_started(), *_round(store, 0, "", process_id=2), *_first(store), *_second(store)]
    told += [facts.run_ended("completed", None, RUN), facts.server_stopped(0, 2)]
    for begin in range(0, len(told), 6):  # each a transaction, and a head where one is due
        story.write(path, told[begin : begin + 6], run_id=RUN, process_id=2, sign=sign)
    return path


def weights(round: int, client: str = "") -> State:
    return {"w": torch.full((2, 3), float(round) + len(client)), "b": torch.arange(2.0)}


def _started() -> list[e.Event]:
    run = facts.run_started(RUN, "night", config={"roster": "/home/alice/roster.csv"})
    acted = facts.operator_acted(actor="alice@example", reason="told in confidence")
    return [
        run,
        facts.server_started(2),
        acted,
        facts.opened(1, "192.0.2.77"),
        facts.identified(1, "192.0.2.77", certificate_subject="CN=Alice", certificate_fingerprint="sha256:cafe"),
        facts.registered("1", 1, info={"note": "told in confidence"}),
        *story.registered("2", 2),
        *story.registered(HOSTILE, 3),
    ]


def _upload(update_id: int, client: str, answers: tuple[int, int], **more: object) -> list[e.Event]:
    metrics = [facts.client_metric(METRIC), facts.client_metric("accuracy", float("nan"))]
    digest = state_digest(weights(answers[0], client))
    return story.uploaded(update_id, client, answers, metrics=metrics, update_digest=digest, **more)


def _first(store: CheckpointStore) -> list[e.Event]:
    """Round 1: an attempt that misses its quorum, then one that commits."""
    refused = {"decision": "rejected", "reason": "names: tensor-of-alice is not in the model"}
    return [
        facts.attempt(1, 1, ("1", "2", HOSTILE), process_id=2),
        *_upload(11, "1", (1, 1)),
        *_upload(12, HOSTILE, (1, 1), **refused),
        facts.aborted(1, 1, [facts.answered("1", 11), facts.answered(HOSTILE), facts.silent("2")]),
        facts.attempt(1, 2, ("1", HOSTILE), not_sent=("2",), process_id=2, base_digest=_digest(store, 0)),
        *_upload(13, "1", (1, 2)),
        *_upload(14, HOSTILE, (1, 2), counted_size=60),
        *_upload(15, "2", (1, 1), decision="late", reason="attempt 1 of round 1 is over"),
        _committed(store, 1, 2, [("1", 13, 0.625), (HOSTILE, 14, 0.375)], facts.silent("2", "not_sent"), data_size=160),
        facts.left("2", "closed", 2),
    ]


def _second(store: CheckpointStore) -> list[e.Event]:
    return [
        facts.attempt(2, 1, ("1", HOSTILE), process_id=2, base_digest=_digest(store, 1)),
        *_upload(21, "1", (2, 1)),
        *_upload(22, HOSTILE, (2, 1)),
        _committed(store, 2, 1, [("1", 21, 0.5), (HOSTILE, 22, 0.5)]),
    ]


def _digest(store: CheckpointStore, round: int) -> str:
    return store.write(round, weights(round), {}).digest


def _round(store: CheckpointStore, number: int, client: str, process_id: int = 1) -> list[e.Event]:
    return [facts.attempt(number, process_id=process_id), _committed(store, number, 1, [])]


def _committed(
    store: CheckpointStore,
    round: int,
    attempt: int,
    used: list[tuple[str, int, float]],
    *others: e.ClientOutcome,
    **more: object,
) -> e.Event:
    file = store.write(round, weights(round), {})
    outcomes = [*(facts.answered(client, update, weight) for client, update, weight in used), *others]
    written = {"model_digest": file.digest, "checkpoint": file.path, "checkpoint_bytes": file.size}
    measured = {"accuracy": 0.5, "loss": 1.25} if round else {}
    return facts.committed(round, attempt, outcomes, **written, **measured, **more, arithmetic="exact-sum-1")
