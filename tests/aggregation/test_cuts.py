"""What a sum has in a range as it stands, words and bins, adds up to the sum itself."""

from collections.abc import Iterator
from itertools import pairwise, product

import pytest
import torch

from flserver.aggregation import State, cuts, kernel
from flserver.aggregation.bins import BLOCK, CARRIES
from flserver.aggregation.ranges import Range, cut, ranges
from flserver.aggregation.sums import ExactSum
from flserver.errors import UsageError
from flserver.models.state import Pieces, together

MOST = 2**29 - 1  # samples of one update

# Of what each of some sums is made: the largest number of its updates, their samples, and how many of them there are.
SUMS = {
    "words of one unit": [(1.0, 3, 1), (1.0, 3, 2), (1.0, 2, 1)],
    "words of units that differ": [(1.0, 1, 1), (1.0, 1000, 1), (0.01, 7, 3)],
    "words of which the first is the finest": [(0.001, 1, 1), (100.0, 1, 1)],
    "words that have no room for each other": [(1.0, MOST, 200), (1.0, MOST, 200), (1.0, MOST, 200)],
    "words that have room for some of the others": [(1.0, MOST, 100)] * 7,
    "bins that have no room for each other": [(1.0, MOST, 28)] * 5,
    "a word too fine for another": [(1e-6, 1, 1), (1.0, MOST, 300), (1e6, 1, 1)],
    "small numbers, then large ones": [(1e-30, 1, 1), (1e20, 1, 1), (1e-30, 5, 2)],
    "large numbers, then small ones": [(1e20, 1, 1), (1e-30, 1, 1), (1.0, 1, 1)],
    "no number at all in one": [(0.0, 1, 1), (1.0, 2, 1)],
    "everything": [(10.0**power, n, 2) for power, n in product(range(-30, 31, 12), (1, MOST))],
}


def sums_of(of: list[tuple[float, int, int]], model: State) -> Iterator[ExactSum]:
    """The elements at odd places are negative in all updates, the others positive, so that bounds are come near."""
    generator = torch.Generator().manual_seed(5)
    for largest, samples, count in of:
        total = ExactSum(model)
        for _ in range(count):
            update = {}
            for name, one in model.items():
                numbers = torch.rand(one.shape, generator=generator, dtype=torch.float64) / 4 + 0.75
                numbers[1::2] *= -1
                update[name] = (numbers * largest).to(one.dtype)
            total.add(update, samples)
        yield total


def over_all(cut_of: list[Pieces], model: State) -> ExactSum:
    total = ExactSum(model)
    for one in cut_of:
        cuts.take(total, one)
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of", SUMS.values(), ids=SUMS)
def test_cuts_add_up_to_the_sum(loops: kernel.Loops, of: list[tuple[float, int, int]], dtype: torch.dtype) -> None:
    model = {"w": torch.zeros(BLOCK + 5, dtype=dtype)}
    (whole,) = ranges(model, 1)
    parts = list(sums_of(of, model))
    found = over_all([cut(part, whole) for part in parts], model)
    mean = found.mean()["w"]
    expected = ExactSum(model)
    for part in parts:
        expected.merge(part)
    assert torch.equal(mean, expected.mean()["w"])
    assert found == expected


def test_words_of_all_units_add_up_in_any_order(loops: kernel.Loops) -> None:
    """Also of units that are further apart than an integer has bits."""
    model = {"w": torch.zeros(8)}
    (whole,) = ranges(model, 1)
    for power in range(-120, 121):
        parts = list(sums_of([(1.0, 1, 1), (2.0**power, 1, 1)], model))
        found = [over_all([cut(part, whole) for part in both], model) for both in (parts, parts[::-1])]
        expected = ExactSum(model)
        for part in parts:  # which brings them into their canonical form
            expected.merge(part)
        assert found == [expected] * 2, power


@pytest.mark.parametrize("of", SUMS.values(), ids=SUMS)
def test_numba_takes_what_numpy_has_cut_and_numpy_what_numba_has(
    of: list[tuple[float, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"w": torch.zeros(BLOCK + 5)}
    (whole,) = ranges(model, 1)
    compiled, digests = kernel.load(), set()
    for here, there in product((compiled, kernel.Plain()), repeat=2):
        monkeypatch.setattr(kernel, "load", lambda here=here: here)
        found = [together(cut(one, whole)) for one in sums_of(of, model)]
        monkeypatch.setattr(kernel, "load", lambda there=there: there)
        digests.add(over_all(found, model).digest())
    assert len(digests) == 1


def test_usual_numbers_stay_one_word_each_where_samples_differ() -> None:
    """It is half of what two bins are, to bring to other nodes and to add."""
    model = {"w": torch.zeros(2 * BLOCK)}
    (whole,) = ranges(model, 1)
    parts = list(sums_of([(0.05, n, 4) for n in (60, 100, 170, 30)], model))
    found = [cut(part, whole) for part in parts]
    assert [len(one["rows"]) for one in found] == [2, 2, 2, 2]
    (part,) = over_all(found, model).parts
    assert (part.bins.word >= 0).all()
    assert (part.bins.table < 0).all()


@pytest.mark.parametrize(
    ("column", "value"), [(0, 2), (1, 17), (1, 10_000), (2, 3), (2, -1), (3, -1), (3, 2**62)], ids=str
)
def test_what_is_no_cut_is_not_added(column: int, value: int) -> None:
    """Compiled loops would write wherever it says."""
    model = {"w": torch.zeros(3 * BLOCK, dtype=torch.float64)}
    (total,) = sums_of([(1.0, 3, 2)], model)
    (whole,) = ranges(model, 1)
    found = together(cut(total, whole))
    numbers = found["numbers"]
    cuts.take(ExactSum(model), found)
    for wrong in ({"numbers": numbers[1:]}, {"numbers": numbers.float()}, {"numbers": numbers[:, 1:]}):
        with pytest.raises(UsageError, match="none of a sum"):
            cuts.take(ExactSum(model), found | wrong)
    as_a_word = together(cut(next(sums_of([(1.0, 3, 2)], {"w": torch.zeros(1)})), Range(range(1), range(0))))
    cuts.take(ExactSum({"w": torch.zeros(1)}), as_a_word)
    as_a_word["rows"][0, 1] = 104  # no word of float32 has such a unit
    with pytest.raises(UsageError, match="none of a sum"):
        cuts.take(ExactSum({"w": torch.zeros(1)}), as_a_word)
    found["rows"][-1, column] = value
    with pytest.raises(UsageError, match="none of a sum"):
        cuts.take(ExactSum(model), found)


def test_a_cut_is_over_the_sums_own_memory_and_changes_nothing_of_it(loops: kernel.Loops) -> None:
    model = {"w": torch.zeros(3 * BLOCK, dtype=torch.float64)}
    (total,) = sums_of([(1.0, MOST, 300)], model)
    before = total.parts[0].bins.table.copy()
    for within in ranges(model, 3):
        rows = cut(total, within)["rows"]
        assert (rows[:, 3] <= CARRIES).all()  # so that whoever takes it has room for it, whatever is there
        assert all(first <= second for first, second in pairwise(rows[:, 2].tolist()))
    assert (total.parts[0].bins.table == before).all()
