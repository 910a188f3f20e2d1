"""A set of numbers as ranges is that set."""

from hypothesis import given
from hypothesis import strategies as st

from flserver.store.ranges import Ranges


@given(st.sets(st.integers(1, 60)))
def test_it_holds_what_was_added_and_nothing_else(numbers: set[int]) -> None:
    ranges = Ranges()
    for number in sorted(numbers):
        ranges.add(number)
    assert list(ranges) == sorted(numbers)
    assert len(ranges) == len(numbers)
    assert {number for number in range(62) if number in ranges} == numbers
    assert all(one[1] + 1 < other[0] for one, other in zip(ranges.ranges, ranges.ranges[1:], strict=False))
