"""A sum that is cut by ranges, merged and rounded there has the bits of the whole."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from flserver.aggregation import State, cuts, kernel
from flserver.aggregation.bins import BLOCK
from flserver.aggregation.ranges import (
    Counted,
    Range,
    cut,
    cut_updates,
    in_range,
    made,
    put,
    ranges,
    sum_over,
    unset_like,
)
from flserver.aggregation.sums import ExactSum
from flserver.errors import UsageError
from tests.aggregation.exact import Member, members, same_bits, zeros
from tests.examples import times
from tests.ingest.strategies import InOrder, Median

SIZES = (0, 1, 7, 8, BLOCK - 1, BLOCK, BLOCK + 3, 2 * BLOCK)
DTYPES = (
    torch.float32,
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
)


@st.composite
def fleets(draw: st.DrawFn) -> list[Member]:
    """Updates of a model whose tensors end beside the blocks' seams as well as on them."""
    kinds = draw(st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(DTYPES)), min_size=1, max_size=6))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def tensor(size: int, dtype: torch.dtype) -> torch.Tensor:
        if not dtype.is_floating_point:
            return torch.randint(0, 2 if dtype == torch.bool else 4, (size % 300,), generator=chance).to(dtype)
        numbers = torch.randn(size, generator=chance, dtype=torch.float64)
        odd = torch.rand(size, generator=chance) < 0.01  # of all magnitudes that the dtype has
        exponents = torch.randint(-12 if dtype == torch.float16 else -100, 12, (size,), generator=chance)
        return torch.where(odd, torch.ldexp(numbers, exponents), numbers * 0.05).to(dtype)

    return [
        ({f"t{i}": tensor(*kind) for i, kind in enumerate(kinds)}, draw(st.sampled_from([1, 60, 2**29 - 1])))
        for _ in range(draw(st.integers(1, 5)))
    ]


def sums_of(model: State, updates: list[Member], nodes: int, chance: random.Random) -> list[ExactSum]:
    """The updates in any order, each at one of so many nodes."""
    made = [ExactSum(model) for _ in range(nodes)]
    for update, n in chance.sample(updates, len(updates)):
        chance.choice(made).add(update, n)
    return made


def reduced_by_range(model: State, sums: list[ExactSum], count: int) -> State:
    whole = unset_like(model)
    for tensor in whole.values():
        tensor.fill_(1)  # what no range has stays
    for within in ranges(model, count):
        put(whole, within, sum_over(in_range(model, within), [cut(one, within) for one in sums]).mean())
    return whole


def check(updates: list[Member], chance: random.Random, nodes: int, count: int) -> None:
    model = zeros(updates[0][0])
    expected = sums_of(model, updates, 1, chance)[0].mean()
    found = reduced_by_range(model, sums_of(model, updates, nodes, chance), count)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert same_bits(found[name], tensor), name


@times(0.25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fleets(), st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 9))
def test_any_placement_and_any_number_of_ranges_give_the_same_bits(
    loops: kernel.Loops, updates: list[Member], chance: random.Random, nodes: int, count: int
) -> None:
    check(updates, chance, nodes, count)


@times(0.5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_numbers_of_all_magnitudes_do_too(
    loops: kernel.Loops, updates: list[Member], chance: random.Random, nodes: int
) -> None:
    check(updates, chance, nodes, 2)


def test_ranges_go_across_the_parts_of_a_sum(loops: kernel.Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("parts", "sums"):
        monkeypatch.setattr(f"flserver.aggregation.{module}.PART", 2 * BLOCK)
    monkeypatch.setattr(cuts, "BLOCKS", 2)
    generator = torch.Generator().manual_seed(2)
    shapes = {"a": (3, BLOCK), "b": (17,), "c": (), "d": (2 * BLOCK + 5,)}
    updates = [({k: torch.randn(s, generator=generator) for k, s in shapes.items()}, n) for n in (1, 5, 11)]
    for count in (1, 2, 3, 6):
        check(updates, random.Random(count), 2, count)


def test_a_cut_is_the_sum_over_the_range_alone(loops: kernel.Loops) -> None:
    generator = torch.Generator().manual_seed(7)
    update = {
        "w": torch.randn(2 * BLOCK + 9, generator=generator),
        "n": torch.arange(9),
        "d": torch.randn(BLOCK, generator=generator, dtype=torch.float64),
    }
    model = zeros(update)
    whole = ExactSum(model)
    whole.add(update, 5)
    for within in ranges(model, 3):
        alone = ExactSum(in_range(model, within))
        alone.add(in_range(update, within), 5)
        taken = ExactSum(in_range(model, within))
        cuts.take(taken, cut(whole, within))
        assert taken == alone


def test_ranges_have_everything_once_and_about_as_much_each() -> None:
    model = {"w": torch.zeros(10 * BLOCK + 1), "n": torch.zeros(7, dtype=torch.int64), "b": torch.zeros(BLOCK)}
    found = ranges(model, 4)
    assert [len(one.blocks) for one in found] == [3, 3, 3, 3]
    assert [block for one in found for block in one.blocks] == list(range(12))
    assert [place for one in found for place in one.places] == list(range(7))
    assert ranges({"w": torch.zeros(3)}, 4) == [Range(range(0, 1), range(0, 0))]
    assert ranges({}, 3) == []


def test_a_cut_of_another_range_is_refused() -> None:
    model = {"w": torch.zeros(2 * BLOCK + 1)}
    total = ExactSum(model)
    total.add({"w": torch.ones(2 * BLOCK + 1)}, 1)
    first, second = ranges(model, 2)
    with pytest.raises(UsageError, match="other tensors"):
        sum_over(in_range(model, first), [cut(total, second)])


@times(0.25)
@given(
    fleets(),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([InOrder, Median]),
)
def test_updates_that_are_cut_by_ranges_give_what_a_strategy_makes_of_the_whole(
    updates: list[Member], chance: random.Random, nodes: int, count: int, kind: type[InOrder | Median]
) -> None:
    model, alone = zeros(updates[0][0]), kind()
    counted = [Counted(str(number), n % 100 + 1, update) for number, (update, n) in enumerate(updates)]
    alone.begin(model)
    for one in counted:
        alone.add(one.update, one.samples)
    expected, whole = alone.finish(), unset_like(model)
    held: list[list[Counted]] = [[] for _ in range(nodes)]
    for one in chance.sample(counted, len(counted)):
        chance.choice(held).append(one)
    for within in ranges(model, count):
        put(whole, within, made(kind(), in_range(model, within), [cut_updates(one, within) for one in held]))
    for name, tensor in expected.items():
        assert same_bits(whole[name], tensor), name


def test_a_strategy_that_makes_another_model_than_the_ranges_is_refused() -> None:
    class Wider(Median):
        def finish(self) -> State:
            return {name: tensor.double() for name, tensor in super().finish().items()}

    model = {"w": torch.zeros(5)}
    (within,) = ranges(model, 1)
    with pytest.raises(UsageError, match="the strategy's new model: w has dtype float64 where float32 is needed"):
        made(Wider(), model, [cut_updates([Counted("a", 1, {"w": torch.ones(5)})], within)])
