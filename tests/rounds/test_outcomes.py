"""What the clients' numbers come to, whatever they say."""

import math

import pytest

from flserver.rounds.outcomes import client_means
from flserver.wire.messages import Measurement


def mean(name: str, *said: float) -> float | None:
    """The mean of what clients of 100 samples each, the last of 200, say of the model they received."""
    sizes = [*[100] * (len(said) - 1), 200]
    measured = [
        (n, (Measurement(name=name, measured_on="received", value=value),))
        for n, value in zip(sizes, said, strict=True)
    ]
    means = client_means(4, measured)
    assert all((m.round, m.name, m.source) == (4, name, "clients") for m in means)
    return means[0].value if means else None


def test_means_are_weighted_by_the_samples_counted() -> None:
    assert mean("accuracy", 0.5, 0.25) == pytest.approx((0.5 + 2 * 0.25) / 3)
    assert mean("loss", 3.0, 0.3) == pytest.approx(1.2)
    assert client_means(4, [(100, (Measurement(name="loss", measured_on="trained", value=1.0),))]) == ()


@pytest.mark.parametrize("lie", [1e100, 1.0001, -0.1, -1e300, math.nan, math.inf, -math.inf])
def test_an_accuracy_outside_0_to_1_is_in_no_mean(lie: float) -> None:
    assert mean("accuracy", lie, 0.5, 0.0, 1.0) == pytest.approx(2.5 / 4)
    assert mean("accuracy", lie) is None


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf, 1e300, -1e300, 2501.0, -2501.0])
def test_a_loss_that_is_not_finite_or_far_from_the_others_is_in_no_mean(lie: float) -> None:
    assert mean("loss", lie, 2.5, 2.0, 3.0) == pytest.approx(10.5 / 4)


def test_a_loss_may_be_large_among_large_ones_negative_among_such_and_ordinary_beside_none() -> None:
    assert mean("loss", 2e6, 4e6, 5e6) == pytest.approx(4e6)
    assert mean("loss", -20.0, -40.0, -50.0) == pytest.approx(-40.0)
    assert mean("loss", 0.0, 0.0, 0.9) == pytest.approx(0.45)
    assert mean("loss", 0.0, 0.0, 1.1) == 0.0


def test_of_two_the_smaller_is_believed() -> None:
    assert mean("loss", 1e300, 0.5) == 0.5


def test_numbers_whose_sum_would_leave_float64_are_in_no_mean() -> None:
    assert mean("loss", 1.7e308, 1.7e308, 1.7e308) is None
    assert mean("loss", math.nan, math.inf) is None
