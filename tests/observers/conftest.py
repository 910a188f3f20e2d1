"""A short run with everything in it, and what SQL would say of it, counted by hand."""

from functools import partial

import pytest

from flserver import events as e
from flserver.clock import utc_timestamp
from flserver.events.totals import Totals
from flserver.observers.tally import LastRound, RunFacts
from tests import facts
from tests.observers.observed_run import COMMITTED_AT, RUN_STARTED, committed, registered

STARTED_AT = "2026-01-31T09:00:00.000000Z"


@pytest.fixture
def run_events() -> list[e.Event]:
    """Round 0, round 1 with five clients, and a first attempt at round 2 that missed its quorum."""
    update = partial(facts.update, connection_id=4)
    clients_loss = facts.round_metric(0, "loss", 0.75, "clients")
    clients_accuracy = facts.round_metric(0, "accuracy", 0.625, "clients")
    server_loss = facts.round_metric(1, "loss", 0.412)
    return [
        RUN_STARTED,
        facts.state_changed("running"),
        facts.attempt(0, at=STARTED_AT),
        committed(0, evaluate_seconds=0.5, broadcast_seconds=None, wait_seconds=None),
        facts.opened(1),
        facts.received(1, bytes=60),
        registered("1"),
        registered("2"),
        registered("3"),
        facts.opened(2),
        facts.received(2, None, "refused", 12),
        facts.closed(2),
        facts.opened(3),
        facts.received(3, "<METADATA>\n\ud800", "refused", 70),
        facts.closed(3),
        facts.strangers_summed(),
        facts.strangers_summed(7, 0, 0, 0, 0, 0, 0, "silent", "unknown", "other", None),
        facts.quorum_settled(2),
        facts.attempt(1, 1, ("1", "2", "3", "4", "5"), at=STARTED_AT),
        facts.sent(4, bytes=32_000),
        facts.sent(5, outcome="failed", bytes=500, reason=None),
        facts.left("3", "reset"),
        registered("3", 2),
        facts.opened(4),
        facts.received(6, "<MODEL>", bytes=32_500),
        facts.closed(4, "upload"),
        update(1),
        update(2, "2"),
        update(3, answers=None, decision="duplicate"),
        update(4, "3", decision="rejected", reason="non_finite: fc1.weight"),
        update(5, "4", decision="rejected", reason="something new"),
        committed(
            1,
            (
                facts.answered("1", 1, 0.5, seconds=1.5),
                facts.answered("2", 2, 0.5, seconds=2.0),
                facts.answered("3", seconds=0.25),
                facts.answered("4", seconds=None),
                facts.silent("5"),
            ),
            metrics=(clients_loss, clients_accuracy, server_loss),
        ),
        facts.attempt(2, 1, ("1", "2"), at=STARTED_AT, deadline_at="2026-01-31T11:00:00.000000Z"),
        update(6, "5", decision="late"),
        update(7, answers=(2, 1)),
        facts.left("2", "strange"),
        facts.aborted(
            2,
            1,
            (facts.answered("1", 7), facts.silent("2", "dropped")),
            seconds=8.0,
            wait_seconds=7.5,
        ),
        facts.left("1", "finished"),
        facts.closed(1, "register"),
    ]


@pytest.fixture
def run_totals(run_events: list[e.Event]) -> Totals:
    """What a reader of SQL would count after ``run_events``."""
    return Totals(
        rounds={"committed": 2, "aborted": 1, "running": 0},
        connections={"register": 1 + 5, "upload": 1, "unknown": 2 + 7},
        messages={
            ("in", "<METADATA>", "ok"): 1,
            ("in", "<METADATA>", "refused"): 5,
            ("out", "<ERROR>", "ok"): 3,
            ("out", "<ERROR>", "failed"): 1,
            ("in", None, "refused"): 1,
            ("in", "<METADATA>\n\ud800", "refused"): 1,
            ("in", "<MODEL>", "ok"): 1,
            ("out", "<MODEL>", "ok"): 1,
            ("out", "<MODEL>", "failed"): 1,
        },
        message_bytes={
            ("in", "<METADATA>"): 60 + 300,
            ("out", "<ERROR>"): 240,
            ("in", None): 12,
            ("in", "<METADATA>\n\ud800"): 70,
            ("in", "<MODEL>"): 32_500,
            ("out", "<MODEL>"): 32_500,
        },
        updates={"accepted": 2, "duplicate": 1, "rejected": 2, "late": 1, "aborted": 1},
        rejected={"non_finite: fc1.weight": 1, "something new": 1},
        dropouts={"reset": 1, "strange": 1, "finished": 1, "stopped": 1, "server stopped": 1},
        rejoins=1,
        events=len(run_events),
        round_seconds=(2.3125, 2.3125, 8.0),
        phase_seconds={
            "broadcast": (0.25, 0.5),
            "wait": (1.5, 7.5),
            "aggregate": (0.125, 0.125),
            "evaluate": (0.5,),
            "checkpoint": (0.0625, 0.0625),
        },
        client_seconds=(1.5, 2.0, 0.25, 3.0),
        checkpoint_seconds=(0.0625, 0.0625),
    )


@pytest.fixture
def run_facts() -> RunFacts:
    return RunFacts(
        run_id="r1",
        name="first",
        model="neural_net_helper:NeuralNet",
        strategy="fedavg",
        num_rounds=10,
        min_updates=2,
    )


@pytest.fixture
def last_round() -> LastRound:
    return LastRound(
        round=1,
        loss=0.412,
        accuracy=0.887,
        clients_loss=0.75,
        clients_accuracy=0.625,
        checkpoint_bytes=31_500,
        committed_at=utc_timestamp(COMMITTED_AT),
    )
