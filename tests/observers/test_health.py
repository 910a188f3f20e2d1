"""When a server is well, and what it says where it is not."""

import json
from dataclasses import replace

import pytest

from flserver.clock import Deadline
from flserver.observers.health import GRACE
from tests.observers.observed_run import WELL

NOW = 1000.0


@pytest.fixture(autouse=True)
def _it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.observers.health.monotonic", lambda: NOW)


def test_a_well_server() -> None:
    status, body = WELL.response()
    assert status == 200
    assert json.loads(body) == {
        "status": "ok",
        "run_id": "r1",
        "state": "running",
        "round": 3,
        "waiting": {"for": "updates", "answered": 2, "missing": 3, "seconds_left": 3590.5},
        "nodes": None,
        "audit": {"sequence": 17, "digest": "sha256:22", "queue_length": 2},
        "reasons": [],
    }


def test_nodes_that_are_gone_are_counted_and_are_nothing_to_restart_it_for() -> None:
    status, body = replace(WELL, nodes=(1, 2)).response()
    assert (status, json.loads(body)["nodes"]) == (200, {"serving": 1, "of": 2})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"writer_alive": False}, "the audit writer is not running"),
        ({"accepting": False}, "no connections are accepted any more"),
        ({"deadline": Deadline(NOW - GRACE - 5)}, "the coordinator is 35 s past its deadline"),
    ],
)
def test_an_unwell_server(change: dict[str, object], reason: str) -> None:
    status, body = replace(WELL, **change).response()  # type: ignore[arg-type]
    assert status == 503
    assert (json.loads(body)["status"], json.loads(body)["reasons"]) == ("unhealthy", [reason])


@pytest.mark.parametrize("ago", [-10, 0, GRACE])
def test_after_a_deadline_there_is_time_to_commit(ago: float) -> None:
    assert replace(WELL, deadline=Deadline(NOW - ago)).response()[0] == 200
