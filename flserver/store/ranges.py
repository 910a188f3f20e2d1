"""A set of numbers, as ranges: pure."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Ranges:
    """A set of numbers that come in ascending order, as ranges: both ends are in it."""

    ranges: list[list[int]] = field(default_factory=list)

    def add(self, number: int) -> None:
        if self.ranges and self.ranges[-1][1] == number - 1:
            self.ranges[-1][1] = number
        else:
            self.ranges.append([number, number])

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.ranges, number, key=lambda both: both[0])
        return at > 0 and number <= self.ranges[at - 1][1]

    def covers(self, first: int, last: int) -> bool:
        """Whether all numbers from ``first`` to ``last`` are in it."""
        at = bisect_right(self.ranges, first, key=lambda both: both[0])
        return at > 0 and last <= self.ranges[at - 1][1]
