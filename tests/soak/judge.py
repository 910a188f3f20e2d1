"""What does not hold after a soak, from what was measured of the server's process: pure."""

from collections.abc import Sequence
from statistics import median

from tests.soak.samples import MB, Sample

# What needs most memory comes first. In the first 2,000 connections or so caches fill and the allocator finds its size:
# where those are all, the last tenth lies 1 to 2.5 MB above the second. A leak of 1 KB a connection makes 16 MB in
# 20,000.
WARM_UP = 4.5 * MB
PER_CONNECTION = 150  # bytes


def tenth(samples: Sequence[Sample], number: int) -> list[Sample]:
    """The samples of one tenth of all connections, counted from 1."""
    total = max(sample.connections for sample in samples)
    return [s for s in samples if (number - 1) * total < 10 * s.connections <= number * total]


def growth(samples: Sequence[Sample]) -> tuple[float, int]:
    """Bytes of anonymous memory from the second tenth to the last, medians of each, and the connections between."""
    early, late = tenth(samples, 2), tenth(samples, 10)
    grown = median(s.anonymous for s in late) - median(s.anonymous for s in early)
    return grown, round(median(s.connections for s in late) - median(s.connections for s in early))


def judge_memory(samples: Sequence[Sample]) -> list[str]:
    """Flat after the first tenth."""
    grown, connections = growth(samples)
    allowed = WARM_UP + PER_CONNECTION * connections
    if grown <= allowed:
        return []
    return [
        f"memory grew by {grown / MB:.1f} MB over {connections} connections after the first tenth, "
        f"{grown / connections:.0f} bytes each; {allowed / MB:.1f} MB are allowed"
    ]


def judge_left(when: str, before: Sample, after: Sample) -> list[str]:
    """No more threads and descriptors than before."""
    pairs = {
        "threads": (before.threads, after.threads),
        "descriptors": (before.descriptors, after.descriptors),
    }
    return [
        f"{has - had} {what} are left {when}: {had} before, {has} then"
        for what, (had, has) in pairs.items()
        if has > had
    ]
