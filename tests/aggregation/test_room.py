"""What a round's sum takes, where there is little: an update that needs more is taken back, and costs the others
nothing."""

import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch

from flserver.aggregation import State, kernel
from flserver.aggregation.bins import BLOCK, PART
from flserver.aggregation.parts import BIN, Part
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.aggregation.sums import ExactSum
from flserver.errors import NoRoom, TooDifferent
from tests.aggregation.exact import same_bits, zeros

BLOCKS = 6
GRIDS = 10  # of float32


class Scratch:
    """A budget in bins, which counts what is in use."""

    def __init__(self, bins: int) -> None:
        self.most, self.used = bins * BIN, 0

    def __call__(self, size: int) -> memoryview:
        if self.used + size > self.most:
            raise NoRoom("the test's budget is used up")
        memory = np.zeros(size, dtype=np.uint8)
        self.used += size
        weakref.finalize(memory, self._free, size)
        return memoryview(memory)

    def _free(self, size: int) -> None:
        self.used -= size


def usual(seed: int, size: int = BLOCKS * BLOCK, dtype: torch.dtype = torch.float32) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.rand(size, generator=generator).to(dtype) + 0.5}


def every_exponent(size: int = BLOCKS * BLOCK) -> State:
    return {"w": torch.from_numpy(np.ldexp(np.float32(1.1), -(np.arange(size) % 149)))}


def begun(bins: int, model: State) -> tuple[FedAvg, Scratch]:
    strategy, scratch = FedAvg(), Scratch(bins)
    strategy.scratch = scratch
    strategy.begin(model)
    return strategy, scratch


def mean_of(updates: list[tuple[State, int]]) -> torch.Tensor:
    made = ExactSum(zeros(updates[0][0]))
    for update, n in updates:
        made.add(update, n)
    return made.mean()["w"]


AT_FIRST = 2 * BLOCKS + 2 * GRIDS


def test_an_update_that_needs_more_than_there_is_leaves_no_bit_and_no_byte(loops: kernel.Loops) -> None:
    """Before the others, between them, and after them."""
    strategy, scratch = begun(AT_FIRST + 25, zeros(usual(1)))
    before, honest = scratch.used, [(usual(1), 100), (usual(2), 7)]
    for update, n in honest:
        with pytest.raises(TooDifferent, match="more magnitudes than there is room"):
            strategy.reserve(every_exponent(), 3)
        assert scratch.used == before, "what it made was given back"
        strategy.reserve(update, n)
        strategy.add(update, n)
    with pytest.raises(TooDifferent):
        strategy.reserve(every_exponent(), 2**29 - 1)
    assert scratch.used == before
    assert same_bits(strategy.finish()["w"], mean_of(honest))


def test_what_one_part_has_no_room_for_is_taken_out_of_the_others(loops: kernel.Loops) -> None:
    size = PART + BLOCK
    strategy, scratch = begun(1000, zeros(usual(1, size)))
    before, odd = scratch.used, usual(3, size)
    for block in (slice(BLOCK), slice(PART, None)):  # one in each part
        odd["w"][block] = every_exponent(BLOCK)["w"]
    scratch.most = before + (2 * GRIDS + 64) * BIN  # for one part to grow
    with pytest.raises(TooDifferent):
        strategy.reserve(odd, 5)
    assert scratch.used == before
    strategy.add(usual(1, size), 4)
    assert same_bits(strategy.finish()["w"], usual(1, size)["w"])


def test_what_was_folded_and_is_not_to_count_is_taken_back(loops: kernel.Loops) -> None:
    strategy, scratch = begun(1000, zeros(usual(1)))
    before, odd, kept = scratch.used, every_exponent(), every_exponent()
    strategy.reserve(odd, 9)
    assert scratch.used > before, "there is room here"
    strategy.add(usual(2), 3)
    strategy.unreserve(odd, 9)
    assert scratch.used == before
    assert same_bits(strategy.finish()["w"], usual(2)["w"])
    strategy.reserve(kept, 9)  # and with another one of its kind
    strategy.reserve(odd, 9)
    strategy.unreserve(odd, 9)
    strategy.add(kept, 9)
    assert same_bits(strategy.finish()["w"], mean_of([(usual(2), 3), (kept, 9)]))


@pytest.mark.parametrize("first", [usual, lambda seed: every_exponent()], ids=["usual", "every exponent"])
def test_what_counts_takes_nobodys_usual_bins_and_nothing_of_the_mean(
    loops: kernel.Loops, first: Callable[[int], State]
) -> None:
    """However little is left: the next update and the mean ask for nothing."""
    strategy, scratch = begun(1000, zeros(usual(1)))
    updates = [(first(1), 2**29 - 1), (usual(2), 2**29 - 1), (usual(3), 1)]
    strategy.reserve(*updates[0])
    scratch.most = scratch.used
    for update, n in updates:
        strategy.add(update, n)
    assert same_bits(strategy.finish()["w"], mean_of(updates))


def test_a_sum_without_room_for_usual_numbers_does_not_begin() -> None:
    with pytest.raises(NoRoom, match="budget"):
        begun(AT_FIRST - 1, zeros(usual(1)))


def test_wide_numbers_are_taken_back_too(loops: kernel.Loops) -> None:
    size, grids = 2 * BLOCK, 59
    strategy, scratch = begun(3 * 2 + 2 * grids, zeros(usual(1, size, torch.float64)))
    wide = {"w": torch.from_numpy(np.ldexp(1.1, np.arange(size) % 1900 - 950))}
    for n in (1, 2**29 - 1):
        with pytest.raises(TooDifferent):
            strategy.reserve(wide, n)
        strategy.add(usual(n, size, torch.float64), n)
    assert same_bits(strategy.finish()["w"], mean_of([(usual(n, size, torch.float64), n) for n in (1, 2**29 - 1)]))
    assert scratch.used == scratch.most


def huge(seed: int, most: int) -> State:
    """Too large for words that usual numbers began, and for half of the blocks of every magnitude."""
    numbers = torch.ldexp(usual(seed)["w"], torch.tensor(60))
    numbers[most * BLOCK :] = every_exponent()["w"][most * BLOCK :]
    return {"w": numbers}


def test_a_word_that_has_to_be_spilled_for_what_there_is_no_room_for_costs_the_others_nothing(
    loops: kernel.Loops,
) -> None:
    strategy, scratch = begun(AT_FIRST + 12, zeros(usual(1)))
    before, honest = scratch.used, [(usual(1), 999), (usual(2), 7), (usual(3), 100)]
    part = strategy._sum.parts[0]
    for update, n in honest:
        strategy.add(update, n)
        with pytest.raises(TooDifferent):
            strategy.reserve(huge(n, BLOCKS // 2), n)
        assert scratch.used == before
        assert part.bins.left[0] >= part.kept_free
    if loops.name == "numba":
        assert list(part.bins.word >= 0) == [False] * (BLOCKS // 2) + [True] * (BLOCKS // 2)
    assert same_bits(strategy.finish()["w"], mean_of(honest))
    assert scratch.used == before


def test_words_that_stand_where_memory_is_given_back_are_moved(loops: kernel.Loops) -> None:
    strategy, scratch = begun(1000, zeros(usual(1)))
    before, odd = scratch.used, every_exponent()
    odd["w"][-2 * BLOCK :] = 0
    strategy.reserve(odd, 9)
    strategy.add(usual(2), 3)
    part = strategy._sum.parts[0]
    if loops.name == "numba":
        assert (part.bins.word >= before // BIN).any()
    strategy.unreserve(odd, 9)
    assert scratch.used == before
    assert max(part.bins.table.max(), part.bins.word.max()) < before // BIN
    assert same_bits(strategy.finish()["w"], usual(2)["w"])


def test_what_a_word_had_room_for_is_taken_back_without_spilling_it(loops: kernel.Loops) -> None:
    strategy, _ = begun(AT_FIRST, zeros(usual(1)))
    word, large = strategy._sum.parts[0].bins.word, [{"w": usual(seed)["w"] * 2**7} for seed in (2, 3)]
    strategy.add(usual(1), 1)
    was = list(word)
    for _ in range(3):
        for update in large:
            strategy.reserve(update, 1)
        for update in large:
            strategy.unreserve(update, 1)
    assert list(word) == was
    assert loops.name == "numpy" or min(was) >= 0
    assert same_bits(strategy.finish()["w"], usual(1)["w"])


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_added_rejected_and_taken_back_the_room_that_has_to_be_free_is(
    loops: kernel.Loops, seed: int
) -> None:
    """Numbers of all sizes beside numbers that are alike, of few samples and many, in any order."""
    random, scale = np.random.default_rng(seed), 2.0 ** (-4, -20, 10)[seed % 3]
    strategy, scratch = begun(AT_FIRST + 20 * (seed % 4), zeros(usual(1)))
    part, size = strategy._sum.parts[0], BLOCKS * BLOCK
    reserved: list[tuple[State, int]] = []
    counted: list[tuple[State, int]] = []
    for _ in range(10):
        numbers = random.standard_normal(size) * scale
        if odd := random.random() < 0.5:
            low, high = sorted(random.integers(-149, 90, 2))
            numbers *= np.ldexp(1.0, random.integers(low, high + 1, size))
        update = {"w": torch.from_numpy(np.clip(numbers, -(2.0**120), 2.0**120).astype(np.float32))}
        n = int(random.choice([1, 1000, 2**29 - 1]))
        try:
            strategy.reserve(update, n)
        except TooDifferent:
            pass
        else:
            (reserved if odd else counted).append((update, n))
        if reserved and random.random() < 0.4:
            strategy.unreserve(*reserved.pop())
        assert part.bins.left[0] >= part.kept_free
        with_so_many_free = [short_with(loops, part, part.kept_free + more) for more in (-1, 0)]
        assert with_so_many_free == [True, False]
    for update, n in reserved:
        strategy.unreserve(update, n)
    scratch.most = scratch.used
    for update, n in counted:
        strategy.add(update, n)
    assert same_bits(strategy.finish()["w"], mean_of(counted))


def short_with(loops: kernel.Loops, part: Part, free: int) -> bool:
    """Whether a part would be short of slots if so many were free."""
    there, part.bins.left[0] = int(part.bins.left[0]), free
    found = loops.short(part)
    part.bins.left[0] = there
    return found
