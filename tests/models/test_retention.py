"""Which round is the best, and which checkpoints go."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.models.retention import MadeRound, best, comparable, going

Measured = list[tuple[float | None, float | None]]


def made(measured: Measured) -> list[MadeRound]:
    return [MadeRound(number, 1, f"round-{number}", *of) for number, of in enumerate(measured)]


@pytest.mark.parametrize(
    ("value", "kept"), [(None, None), (0.5, 0.5), (0, 0), (math.nan, None), (math.inf, None), (-math.inf, None)]
)
def test_what_cannot_be_compared_counts_as_not_measured(value: float | None, kept: float | None) -> None:
    assert comparable(value) == kept


@pytest.mark.parametrize(
    ("measured", "number"),
    [
        ([(None, None), (None, None)], None),
        ([(2.0, None), (1.0, None), (3.0, None)], 1),
        ([(1.0, None), (1.0, None)], 1),
        ([(1.0, 0.5), (2.0, 0.9), (3.0, 0.1)], 1),
        ([(1.0, 0.9), (2.0, 0.9)], 0),
        ([(1.0, 0.9), (1.0, 0.9), (2.0, 0.9)], 1),
        ([(None, 0.9), (5.0, 0.9)], 1),
        ([(0.1, None), (5.0, 0.2)], 1),
    ],
)
def test_the_best_round(measured: Measured, number: int | None) -> None:
    """Pairs of loss and accuracy, by round."""
    found = best(made(measured))
    assert (found.round if found else None) == number


def test_the_newest_and_the_best_stay() -> None:
    rounds = made([(3.0, 0.1), (1.0, 0.9), (2.0, 0.5), (2.5, 0.4), (2.4, 0.4)])
    assert [gone.round for gone in going(rounds, 2)] == [0, 2]
    assert [gone.round for gone in going(rounds, 1)] == [0, 2, 3]
    assert going(rounds, 0) == going(rounds, 5) == going(rounds, 9) == []


def test_without_measures_the_newest_alone_stay() -> None:
    assert [gone.round for gone in going(made([(None, None)] * 4), 1)] == [0, 1, 2]


numbers = st.none() | st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 7.0])


@given(st.lists(st.tuples(numbers, numbers), max_size=8), st.integers(1, 4))
def test_pruning_after_every_round_keeps_what_pruning_at_the_end_would(measured: Measured, keep: int) -> None:
    rounds, kept = made(measured), list[MadeRound]()
    for one in rounds:
        kept.append(one)
        kept = [stays for stays in kept if stays not in going(kept, keep)]
    assert kept == [stays for stays in rounds if stays not in going(rounds, keep)]
