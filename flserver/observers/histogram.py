"""A histogram whose past can be loaded: the library's own cannot be."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

# Upper bounds in seconds, each list for what it measures; infinity comes by itself.
ROUND_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
PHASE_BUCKETS = (0.005, 0.025, *ROUND_BUCKETS)
CLIENT_BUCKETS = (0.05, *ROUND_BUCKETS)
CHECKPOINT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram:
    """Counts observations (seconds) at or below each of the ascending ``bounds``, as Prometheus does."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def load(self, observations: Iterable[float]) -> None:
        """Forget everything, then observe all of ``observations``."""
        self._counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        for seconds in observations:
            self.observe(seconds)

    def cumulative(self) -> list[tuple[float, int]]:
        """Every bound with the number of observations at or below it; the last bound is infinity."""
        return list(zip((*self.bounds, float("inf")), accumulate(self._counts), strict=True))
