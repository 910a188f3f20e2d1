"""What a server process puts on record when it begins."""

import logging

import pytest

from flserver.aggregation import Strategy
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.events import OperatorActed
from flserver.process.first_entries import BEFORE_NAMES, record_arithmetic
from flserver.process.which_run import Plan
from flserver.settings import server_settings
from tests.process.runs import found
from tests.recorder import RecordingRecorder


class Nameless(FedAvg):
    arithmetic = None


@pytest.mark.parametrize(
    ("row", "strategy", "change"),
    [
        ({"arithmetic": None}, FedAvg(), (BEFORE_NAMES, "exact-sum-1")),
        ({"arithmetic": "an older sum"}, FedAvg(), ("an older sum", "exact-sum-1")),
        ({"arithmetic": "exact-sum-1"}, FedAvg(), None),
        ({"arithmetic": None, "rounds_committed": 0}, FedAvg(), None),
        ({"arithmetic": None, "strategy": "mine:Strategy"}, Nameless(), None),
        ({"arithmetic": "exact-sum-1", "strategy": "mine:Strategy"}, Nameless(), ("exact-sum-1", None)),
    ],
)
def test_a_resumed_run_says_that_its_arithmetic_is_another_one(
    caplog: pytest.LogCaptureFixture, row: dict[str, object], strategy: Strategy, change: tuple[str, str] | None
) -> None:
    recorder = RecordingRecorder()
    run = found("interrupted") | {"rounds_committed": 3, "strategy": "fedavg"} | row
    plan = Plan(run_id="r1", name="night", ref="night", settings=server_settings({}), resumed=run)
    with caplog.at_level(logging.WARNING):
        record_arithmetic(recorder, plan, strategy)
    told = [event.detail for event in recorder.events if isinstance(event, OperatorActed)]
    assert [(detail["setting"], detail["before"], detail["now"]) for detail in told] == (
        [("arithmetic", *change)] if change else []
    )
    assert ("another arithmetic" in caplog.text) == bool(change)


def test_a_new_run_has_nothing_to_say_of_another_arithmetic() -> None:
    recorder = RecordingRecorder()
    plan = Plan(run_id="r1", name="night", ref="night", settings=server_settings({}))
    record_arithmetic(recorder, plan, FedAvg())
    assert not recorder.events
