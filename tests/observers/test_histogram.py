"""Buckets that are counted once and can be loaded."""

import math

from flserver.observers.histogram import Histogram


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (1.0, 1.5, 2.0, 2.5):
        histogram.observe(seconds)
    assert histogram.cumulative() == [(1.0, 1), (2.0, 3), (math.inf, 4)]
    histogram.load([0.5])
    assert (histogram.cumulative()[-1], histogram.sum) == ((math.inf, 1), 0.5)
