"""What is said where the model is at fault, or an ingest node."""

from pathlib import Path

import pytest

from flserver import events as e
from flserver.aggregation.checks import Norms
from flserver.events.words import LeftReason
from flserver.models.retention import MadeRound
from flserver.rounds.advice import furthest, misses, model_at_fault, nodes_at_fault, sound_before, way_back
from flserver.rounds.seats import Result, Seat
from flserver.rounds.weights import Weight
from tests.rounds.coordinated import Run, Trainer, tensors

WEIGHT = Weight("one", 10)


def results(*kinds: str | None) -> list[Result]:
    """Seats that answered with an update that counts (``""``) or was rejected as a kind, or not at all (None)."""
    seats = [Seat(str(i), 10, 1, WEIGHT) for i in range(len(kinds))]
    for seat, kind in zip(seats, kinds, strict=True):
        seat.update_id = None if kind is None else 1
        seat.rejection = f"{kind}: w" if kind else None
    return [Result(seat, "answered") for seat in seats]


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (("non_finite", "non_finite"), "all updates hold NaN or infinity: the model that was sent is the likely cause"),
        (("non_finite", None, "non_finite"), "all updates"),
        (("non_finite", "", "non_finite"), "2 of 3 updates"),
        (("non_finite",), "all updates"),
    ],
)
def test_where_most_updates_are_no_numbers_it_is_the_model(kinds: tuple[str | None, ...], says: str) -> None:
    assert (model_at_fault(results(*kinds)) or "").startswith(says)


@pytest.mark.parametrize("kinds", [("non_finite", ""), ("shape", "shape"), (None, None), ()])
def test_else_it_is_not(kinds: tuple[str | None, ...]) -> None:
    assert model_at_fault(results(*kinds)) is None


def made(*losses: float | None) -> list[MadeRound]:
    return [MadeRound(round, 1, "…", loss, None) for round, loss in enumerate(losses)]


def test_the_way_back_is_to_the_last_round_that_was_measured_as_a_number() -> None:
    assert sound_before(made(2.0, 1.0, None, None), 3) == 1, "NaN and the infinities are None here"
    assert sound_before(made(2.0, 1.0, 0.5), 2) == 1, "not to the model that is at fault itself"
    assert sound_before(made(None, None, None), 2) == 1
    nan = [MadeRound(0, 1, "…", 2.0, 0.1), MadeRound(1, 1, "…", None, 0.1)]
    assert sound_before(nan, 2) == 0, "a model of NaN has an accuracy all the same"
    assert sound_before([MadeRound(0, 1, "…", None, 0.1), MadeRound(1, 1, "…", None, None)], 2) == 0
    assert sound_before(made(None, None, None)[2:], 2) is None
    assert way_back(made(None), 0, lambda round: "…").startswith("there is no round before 0")
    assert way_back(made(None, None), 1, lambda round: f"go {round}").endswith("sound: go 0")


def test_the_furthest_is_told_by_its_whole_norm() -> None:
    norms = [Norms(1.0, 0.0), Norms(3.0, 4.0), Norms(4.5, 0.0)]
    seats = [Seat(str(i), 10, 1, WEIGHT, norms=n) for i, n in enumerate(norms)]
    assert furthest([*seats, Seat("9", 10, 1, WEIGHT)]).client_id == "1"


def test_a_quorum_that_is_missed_when_a_node_went_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Run(tmp_path, min_clients=2, round_attempts=1) as run:
        a, b = Trainer(run, "a"), Trainer(run, "b")
        run.coordinator.start()
        a.model()
        b.model()
        a.submit(tensors(1, 1, 1))
        run.exchange.leave(b.registration, "node")
        assert run.finish() == "interrupted"
    (aborted,) = run.recorder.of(e.AttemptAborted)
    assert (aborted.reason, aborted.detail) == ("quorum", "1 of 2 clients were served by an ingest node that is gone")
    said = run.recorder.of(e.StateChanged)[-1].detail
    assert said == f"round 1 {misses(['missed its quorum'], 1)}"
    assert "to start anew" not in caplog.text, "the model is not at fault"


@pytest.mark.parametrize("reason", ["closed", "timeout"])
def test_who_left_otherwise_is_no_nodes_fault(tmp_path: Path, reason: LeftReason) -> None:
    with Run(tmp_path, min_clients=2, round_attempts=1) as run:
        a, b = Trainer(run, "a"), Trainer(run, "b")
        run.coordinator.start()
        a.model()
        b.model()
        a.submit(tensors(1, 1, 1))
        run.exchange.leave(b.registration, reason)
        assert run.finish() == "interrupted"
    assert run.recorder.of(e.AttemptAborted)[0].detail is None
    assert run.recorder.of(e.StateChanged)[-1].detail == "round 1 missed its quorum 1 time"


def test_a_lost_answer_and_a_client_that_had_to_leave_are_a_nodes_fault() -> None:
    ended = results("", None, "")
    ended[0].seat.lose()
    ended[1].seat.node_gone = True
    assert nodes_at_fault(ended) == "2 of 3 clients were served by an ingest node that is gone"
    assert nodes_at_fault(results("", None)) is None
    gone = "; ingest nodes were gone in 2 of these attempts: trainers may not be to blame"
    assert misses(["missed its quorum"] * 3, 2) == f"missed its quorum 3 times{gone}"


def test_why_attempts_were_no_rounds_is_counted_by_reason() -> None:
    quorum, model = "missed its quorum", "would have been an implausible model (why)"
    assert misses([quorum, model, quorum], 0) == f"{quorum} 2 times, {model} 1 time"
