"""The exact sum against rational arithmetic: in any order, cut up in any way, with updates taken back."""

import gc
import importlib.util
import itertools
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from flserver.aggregation import State, bins, kernel
from flserver.aggregation.bins import BLOCK, PART
from flserver.aggregation.sums import ExactSum
from flserver.errors import UsageError
from flserver.models.pages import WORTH_KEEPING, lent, used_again
from tests.aggregation.exact import FORMATS, Member, mean, members, nearest, same_bits, zeros
from tests.examples import times


def sum_of(model: State, updates: list[Member]) -> ExactSum:
    made = ExactSum(model)
    for update, n in updates:
        made.add(update, n)
    return made


def mean_of(values: list[tuple[float, int]], dtype: torch.dtype) -> float:
    """The mean of one number."""
    updates = [({"w": torch.tensor([value], dtype=dtype)}, n) for value, n in values]
    return sum_of(zeros(updates[0][0]), updates).mean()["w"].item()


@times(2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members())
def test_it_is_the_rational_mean_rounded_once(loops: kernel.Loops, updates: list[Member]) -> None:
    got = sum_of(zeros(updates[0][0]), updates).mean()
    for name, tensor in got.items():
        if tensor.is_floating_point():
            assert same_bits(tensor, mean(updates, name))


@times(1, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members(), st.randoms(use_true_random=False), st.booleans())
def test_any_order_partition_and_subtraction_give_the_same_bits(
    loops: kernel.Loops, updates: list[Member], chance: random.Random, at_once: bool
) -> None:
    model = zeros(updates[0][0])
    expected = sum_of(model, updates)
    gone = chance.choice(updates)
    parts = [ExactSum(model) for _ in range(3)]
    for update, n in chance.sample([*updates, gone], len(updates) + 1):
        chance.choice(parts).add(update, n)
    for part in parts[1:]:
        parts[0].merge(part)
    if at_once:
        parts[0].subtract_sum(sum_of(model, [gone]))
    else:
        parts[0].subtract(*gone)
    assert parts[0] == expected
    assert parts[0].digest() == expected.digest()
    assert (parts[0].samples, parts[0].clients) == (expected.samples, expected.clients)
    read = ExactSum(model)
    read.load(parts[0].save())
    assert read == expected
    for name, tensor in read.mean().items():
        assert same_bits(tensor, expected.mean()[name])


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_ties_go_to_even_and_what_is_nearly_one_does_not(loops: kernel.Loops, dtype: torch.dtype) -> None:
    precision, lowest = FORMATS[dtype]
    for last, below, above in ((0, 0, 1), (1, 1, 2)):  # the last bit of the number below the tie
        ulp = Fraction(2) ** (1 - precision)
        expected = {0: 1 + (below + below % 2) * ulp, 1: 1 + above * ulp, -1: 1 + below * ulp}
        for sign in (1, -1):
            for nudge, number in expected.items():
                # Four of one sample each: the tie times four, and a nudge of 2⁻⁸⁰ where the dtype has 2⁻⁷⁸.
                smallest = max(lowest, -78)
                many = 1 if smallest == -78 else 2**27
                parts = [(4.0, many), (4.0 * float(last * ulp + ulp / 2), many), (0.0, many), (0.0, many - 1)]
                parts.append((nudge * 2.0**smallest, 1))
                if smallest == -78:
                    parts.pop(3)
                assert mean_of([(sign * value, n) for value, n in parts], dtype) == float(sign * number)


def test_what_cancels_leaves_what_decides_the_rounding(loops: kernel.Loops) -> None:
    """1 + 2⁻²⁴ + 2⁻⁸⁰, made of much larger numbers: float64 has lost the last one."""
    small = [(1.0, 1), (2.0**-24, 1), (2.0**-80, 1), (2.0**100, 3), (-(2.0**100), 3)]
    scaled = [(value * 9, n) for value, n in small]  # nine samples
    assert sum(n for _, n in scaled) == 9
    assert mean_of(scaled, torch.float32) == 1 + 2**-23
    without = [*scaled[:2], (0.0, 1), *scaled[3:]]
    assert mean_of(without, torch.float32) == 1.0


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_a_sum_of_zero_is_plus_zero(loops: kernel.Loops, dtype: torch.dtype) -> None:
    for values in ([(-0.0, 5)], [(-0.0, 1), (-0.0, 2)], [(3.5, 7), (-3.5, 7)], [(1.0, 2), (-2.0, 1)]):
        assert str(mean_of(values, dtype)) == "0.0"


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_the_ends_of_the_range(loops: kernel.Loops, dtype: torch.dtype) -> None:
    least = 2.0 ** FORMATS[dtype][1]
    most = min(torch.finfo(dtype).max, 2.0**970)
    assert mean_of([(most, 2**29 - 1), (most, 3)], dtype) == most
    assert mean_of([(most, 1), (-most, 1), (least, 1)], dtype) == 0.0
    assert mean_of([(least, 2**29 - 1)] * 3, dtype) == least
    assert mean_of([(3 * least, 1), (2 * least, 1)], dtype) == 2 * least  # 2.5: a tie among subnormal numbers
    assert mean_of([(3 * least, 2), (2 * least, 1)], dtype) == 3 * least
    assert str(mean_of([(-least, 1), (0.0, 9)], dtype)) == "-0.0"


def test_float16_stays_finite_up_to_its_largest(loops: kernel.Loops) -> None:
    assert mean_of([(65504.0, 5), (65472.0, 1)], torch.float16) == nearest(
        Fraction(65504 * 5 + 65472, 6), torch.float16
    )
    assert mean_of([(65504.0, 2**29 - 1)] * 4, torch.float16) == 65504.0


def test_a_bin_gives_to_the_next_before_it_is_full(loops: kernel.Loops) -> None:
    """Numbers as large as a grid takes, until its bound would be passed many times."""
    big, n = 3.9999998, 2**29 - 1
    low = 2.0**-30 * (1 + 2**-23)
    model = {"w": torch.zeros(3)}
    made = ExactSum(model)
    update = {"w": torch.tensor([big, low, -big])}
    count = 150
    for _ in range(count):
        made.add(update, n)
    total = {name: Fraction(float(update["w"][i])) * n * count for i, name in enumerate("abc")}
    kept = made.save()
    grids = sorted({int(exponent) for exponent, _ in kept["bins"].tolist()})
    assert 18 in grids, "a bin was made because the sum asked for it"
    for i, exact in enumerate(total.values()):
        assert sum((Fraction(float(row[i])) for row in kept["numbers"]), Fraction(0)) == exact
    for (exponent, _), row in zip(kept["bins"].tolist(), kept["numbers"], strict=True):
        units = row / 2.0**exponent
        assert torch.equal(units, units.round())
        assert bool(((units > -(2.0**35)) & (units <= 2.0**35)).all())


def test_usual_numbers_need_two_bins_and_an_odd_one_a_bin_of_its_block(loops: kernel.Loops) -> None:
    generator = torch.Generator().manual_seed(5)
    usual = torch.randn(4 * BLOCK, generator=generator) * 0.05
    usual[usual.abs() < 2**-30] = 0
    made = ExactSum({"w": torch.zeros(4 * BLOCK)})
    for n in (1, 7, 5 * 10**8):
        made.add({"w": usual}, n)
    assert int((made.parts[0].bins.table >= 0).sum()) == 8
    made.subtract({"w": usual}, 5 * 10**8)
    assert sorted(map(tuple, made.save()["bins"].tolist())) == [(k, b) for k in (-54, -18) for b in range(4)]
    odd = usual.clone()
    odd[2 * BLOCK] = 1e-40
    made.add({"w": odd}, 1)
    more = {tuple(row) for row in made.save()["bins"].tolist()} - {(k, b) for k in (-54, -18) for b in range(4)}
    assert {block for _, block in more} == {2}
    made.subtract({"w": odd}, 1)
    assert len(made.save()["bins"]) == 8, "a bin of zeros is none"


def test_equal_sums_have_one_form_where_a_half_could_be_written_in_two(loops: kernel.Loops) -> None:
    """2³⁵ units of a grid are a half of the next: that goes to even, and what is even depends on what came first."""
    half, model = 2.0**-19, {"w": torch.zeros(1)}
    one = sum_of(model, [({"w": torch.tensor([half])}, 1), ({"w": torch.tensor([0.0])}, 2)])
    other = sum_of(model, [({"w": torch.tensor([2 * half])}, 1), ({"w": torch.tensor([-half])}, 1)])
    other.samples, other.medians.clients = one.samples, one.medians.clients
    assert one == other
    minus = sum_of(model, [({"w": torch.tensor([-half])}, 1)])
    same = sum_of(model, [({"w": torch.tensor([-3 * half])}, 1), ({"w": torch.tensor([2 * half])}, 1)])
    same.samples, same.medians.clients = minus.samples, minus.medians.clients
    assert minus == same


def test_a_sum_over_many_blocks_and_parts_has_no_seam(loops: kernel.Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.aggregation.parts.PART", 2 * BLOCK)
    monkeypatch.setattr("flserver.aggregation.sums.PART", 2 * BLOCK)
    generator = torch.Generator().manual_seed(2)
    shapes = {"a": (3, BLOCK), "b": (17,), "c": (), "d": (2 * BLOCK + 5,)}
    rows = [({k: torch.randn(s, generator=generator) for k, s in shapes.items()}, n) for n in (1, 5, 11)]
    made = sum_of(zeros(rows[0][0]), rows)
    assert len(made.parts) == 3
    total = {k: sum(u[k].double() * n for u, n in rows) / 17 for k in shapes}  # exact enough to tell a wrong place
    assert all(torch.allclose(made.mean()[k].double(), total[k], rtol=1e-6, atol=1e-9) for k in shapes)
    read = ExactSum(zeros(rows[0][0]))
    read.load(made.save())
    assert read == made
    assert PART % BLOCK == 0


def test_updates_are_read_where_they_lie(loops: kernel.Loops) -> None:
    """Over read-only memory, at an odd address, across, and as one number."""
    numbers = torch.arange(1.0, 13.0)
    memory = b"\0" + bytes(numbers.numpy())
    odd = torch.frombuffer(memoryview(memory)[1:], dtype=torch.float32)
    update = {"odd": odd, "across": numbers.view(3, 4).t(), "one": torch.tensor(2.5), "none": torch.zeros(0)}
    got = sum_of(zeros(update), [(update, 3)]).mean()
    assert all(torch.equal(got[name], tensor) for name, tensor in update.items())


def test_what_is_not_of_the_layout_is_refused(loops: kernel.Loops) -> None:
    made = ExactSum({"w": torch.zeros(3)})
    for wrong in (torch.zeros(4), torch.zeros(3, dtype=torch.float64)):
        with pytest.raises(ValueError, match="layout"):
            made.add({"w": wrong}, 1)
    for n in (0, 2**29):
        with pytest.raises(ValueError, match="samples"):
            made.add({"w": torch.ones(3)}, n)
    with pytest.raises(ValueError, match="two layouts"):
        made.merge(ExactSum({"v": torch.zeros(3)}))
    with pytest.raises(UsageError, match="other tensors"):
        made.load(ExactSum({"w": torch.zeros(2)}).save())
    assert made == ExactSum({"w": torch.zeros(3)})


def test_sums_that_differ_have_other_digests() -> None:
    model = {"w": torch.zeros(2), "n": torch.tensor(3)}
    base = ({"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}, 5)
    digest = sum_of(model, [base]).digest()
    for changed in (
        ({"w": torch.tensor([1.0, 2.0000002]), "n": torch.tensor(3)}, 5),
        ({"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(4)}, 5),
        ({"w": torch.tensor([0.5, 1.0]), "n": torch.tensor(3)}, 10),
    ):
        assert sum_of(model, [changed]).digest() != digest


def test_memory_comes_from_who_has_a_budget(loops: kernel.Loops) -> None:
    asked: list[int] = []

    def scratch(size: int) -> memoryview:
        asked.append(size)
        return memoryview(bytearray(size))

    made, usual = ExactSum({"w": torch.zeros(8 * BLOCK)}, scratch), {"w": torch.full((8 * BLOCK,), 1 / 3)}
    assert asked == []
    made.add(usual, 2**29 - 1)
    spare = len(bins.exponents([torch.float32]))
    assert asked == [(2 * 8 + 2 * spare) * BLOCK * 8]
    made.begin({"w": torch.zeros(8 * BLOCK)})
    made.add(usual, 2**29 - 1)
    assert len(asked) == 1


def words_of(made: ExactSum) -> int:
    return int((made.parts[0].bins.word >= 0).sum())


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numpy's loops have no words")
def test_usual_numbers_need_one_word_an_element_until_it_is_full() -> None:
    update = {"w": torch.rand(2 * BLOCK, generator=torch.Generator().manual_seed(3)) / 8}
    made = ExactSum({"w": torch.zeros(2 * BLOCK)})
    made.add(update, 1000)
    assert words_of(made) == 2
    assert not (made.parts[0].bins.table >= 0).any()
    for _ in range(300):  # more than 2^8 of the first one's bound
        made.add(update, 1000)
    assert words_of(made) == 0
    assert (made.parts[0].bins.table >= 0).any()
    other = ExactSum({"w": torch.zeros(2 * BLOCK)})
    other.add(update, 301 * 1000)
    other.medians.clients = made.clients
    assert made == other


@pytest.mark.parametrize("n", [1, 3, 999, 2**29 - 1])
def test_what_cancels_in_a_word_is_rounded_as_it_is(loops: kernel.Loops, n: int) -> None:
    """Large numbers that leave little, of either sign: a word's halves are then both large, and their sum is not."""
    generator = torch.Generator().manual_seed(n)
    large = torch.rand(150, generator=generator) + 1
    few = torch.randint(-3, 4, (150,), generator=generator)
    third = few * 2.0 ** (n.bit_length() - 53)  # a few units of the word
    third[0] = 1  # else they went to bins
    given = [({"w": large}, n), ({"w": -large}, n), ({"w": third}, n)]
    assert same_bits(sum_of({"w": large}, given).mean()["w"], mean(given, "w"))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_word_has_the_same_sum_whichever_update_chose_its_unit(loops: kernel.Loops, order: tuple[int, ...]) -> None:
    """One far too large for the others' words, one too small for them, one with numbers of all sizes in one block."""
    generator = torch.Generator().manual_seed(8)
    usual = torch.randn(40, generator=generator) * 0.05
    sizes = torch.randint(-140, 100, (40,), generator=generator)
    mixed = torch.ldexp(usual, sizes)
    updates = [usual, usual * 2.0**90, usual * 2.0**-70, mixed]
    given = [({"w": updates[i]}, 2**i * 5 + 1) for i in order]
    made = sum_of({"w": usual}, given)
    assert same_bits(made.mean()["w"], mean(given, "w"))
    assert made == sum_of({"w": usual}, sorted(given, key=lambda one: one[1]))


def test_a_mean_in_memory_that_was_used_before_is_that_mean(loops: kernel.Loops) -> None:
    """Of what lay there before nothing is left, where a sum is zero neither."""
    count = WORTH_KEEPING // 4 + 5
    model = {
        "w": torch.zeros(count),
        "narrow": torch.zeros(9, dtype=torch.float16),
        "n": torch.zeros(3, dtype=torch.int64),
    }
    update = {name: tensor.clone() for name, tensor in model.items()}
    update["w"][:3] = 0.75
    before = lent(WORTH_KEEPING + 2**14)
    before[:] = b"\xff" * len(before)
    del before
    gc.collect()
    made = sum_of(model, [(update, 3), (update, 4)]).mean()
    assert used_again(WORTH_KEEPING + 2**12) is None, "the mean lies there"
    for name, tensor in made.items():
        assert same_bits(tensor, update[name])
