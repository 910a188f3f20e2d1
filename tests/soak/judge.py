"""What does not hold after a soak, from what was measured of the server's process: pure."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from tests.soak.samples import MB, Sample

# What needs most memory comes first. In the first WARM_UP connections caches fill, and the allocator finds its size for
# as many threads as serve at once. After them 1 to 2.5 MB were seen; a leak of 1 KB a connection makes 16 MB in 20,000.
WARM_UP = 800  # connections
SLACK = 2.5 * MB
PER_CONNECTION = 150  # bytes


def tenth(samples: Sequence[Sample], number: int) -> Sequence[Sample]:
    """The samples of one tenth of the soak, counted from 1.

    Not of the connections: on a busy machine those who try to register again make many of them from one sample to the
    next.
    """
    return samples[(number - 1) * len(samples) // 10 : number * len(samples) // 10]


def growth(samples: Sequence[Sample]) -> tuple[float, int]:
    """Bytes of anonymous memory from the first tenth after the warm-up to the last, medians of each, and how many
    connections lie between.

    Of the steps from one tenth to the next the largest counts as the mean of the others: the allocator takes 4 MB at
    once, at some time or other, and what leaks does so in all of them.
    """
    warm = next((number for number in range(2, 8) if tenth(samples, number)[0].connections >= WARM_UP), 8)
    tenths = [median(s.anonymous for s in tenth(samples, number)) for number in range(warm, 11)]
    steps = sorted(after - before for before, after in pairwise(tenths))
    grown = sum(steps[:-1]) * len(steps) / (len(steps) - 1)
    early, late = tenth(samples, warm), tenth(samples, 10)
    return grown, round(median(s.connections for s in late) - median(s.connections for s in early))


def judge_memory(samples: Sequence[Sample]) -> list[str]:
    """Flat after the warm-up."""
    grown, connections = growth(samples)
    allowed = SLACK + PER_CONNECTION * connections
    if grown <= allowed:
        return []
    return [
        f"memory grew by {grown / MB:.1f} MB over {connections} connections after the warm-up, "
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
