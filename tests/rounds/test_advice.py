"""What is said where the model is at fault."""

import pytest

from flserver.aggregation.checks import Norms
from flserver.models.retention import MadeRound
from flserver.rounds.advice import furthest, model_at_fault, sound_before, way_back
from flserver.rounds.seats import Result, Seat
from flserver.rounds.weights import Weight

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
