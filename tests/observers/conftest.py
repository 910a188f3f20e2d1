"""A short run with everything in it, and what SQL would say of it, counted by hand."""

import pytest

from flserver import events as e
from flserver.clock import utc_timestamp
from flserver.events.totals import Totals
from flserver.observers.tally import LastRound, RunFacts
from tests.observers.observed_run import (
    COMMITTED_AT,
    RUN_STARTED,
    aborted,
    closed,
    committed,
    left,
    opened,
    received,
    registered,
    sent,
    started,
    update,
)


@pytest.fixture
def run_events() -> list[e.Event]:
    """Round 0, round 1 with five clients, and a first attempt at round 2 that missed its quorum."""
    clients_loss = e.RoundMetric(round=0, name="loss", value=0.75, source="clients")
    clients_accuracy = e.RoundMetric(round=0, name="accuracy", value=0.625, source="clients")
    server_loss = e.RoundMetric(round=1, name="loss", value=0.412, source="server")
    return [
        RUN_STARTED,
        e.StateChanged(state="running"),
        started(0),
        committed(0, evaluate_seconds=0.5, broadcast_seconds=None, wait_seconds=None),
        opened(1),
        received(1, "<METADATA>", "ok", 60),
        registered("1"),
        registered("2"),
        registered("3"),
        opened(2),
        received(2, None, "refused", 12),
        closed(2, "unknown"),
        opened(3),
        received(3, "<METADATA>\n\ud800", "refused", 70),
        closed(3, "unknown"),
        e.QuorumSettled(min_updates=2),
        started(1, ("1", "2", "3", "4", "5"), deadline="2026-01-31T10:00:00.000000Z"),
        sent(4, "<MODEL>", "ok", 32_000),
        sent(5, "<MODEL>", "failed", 500),
        left("3", "reset"),
        registered("3", 2, rejoined=True),
        opened(4),
        received(6, "<MODEL>", "ok", 32_500),
        closed(4, "upload"),
        update(1, None),
        update(2, None, client_id="2"),
        update(3, "duplicate", answers_round=None),
        update(4, "rejected", "non_finite: fc1.weight", client_id="3"),
        update(5, "rejected", "something new", client_id="4"),
        committed(
            1,
            (
                e.ClientOutcome(client_id="1", participation="answered", update_id=1, weight=0.5, seconds=1.5),
                e.ClientOutcome(client_id="2", participation="answered", update_id=2, weight=0.5, seconds=2.0),
                e.ClientOutcome(client_id="3", participation="answered", seconds=0.25),
                e.ClientOutcome(client_id="4", participation="answered"),
                e.ClientOutcome(client_id="5", participation="timed_out"),
            ),
            metrics=(clients_loss, clients_accuracy, server_loss),
        ),
        started(2, ("1", "2"), deadline="2026-01-31T11:00:00.000000Z"),
        update(6, "late", client_id="5"),
        update(7, None, answers_round=2),
        left("2", "strange"),
        aborted(
            (
                e.ClientOutcome(client_id="1", participation="answered", update_id=7, seconds=3.0),
                e.ClientOutcome(client_id="2", participation="dropped"),
            )
        ),
        left("1", "finished"),
        closed(1, "register"),
    ]


@pytest.fixture
def run_totals(run_events: list[e.Event]) -> Totals:
    """What a reader of SQL would count after ``run_events``."""
    return Totals(
        rounds={"committed": 2, "aborted": 1, "running": 0},
        connections={"register": 1, "upload": 1, "unknown": 2},
        messages={
            ("in", "<METADATA>", "ok"): 1,
            ("in", None, "refused"): 1,
            ("in", "<METADATA>\n\ud800", "refused"): 1,
            ("in", "<MODEL>", "ok"): 1,
            ("out", "<MODEL>", "ok"): 1,
            ("out", "<MODEL>", "failed"): 1,
        },
        message_bytes={
            ("in", "<METADATA>"): 60,
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
