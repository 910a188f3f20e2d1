"""FedAvg against exact arithmetic and against itself in other orders."""

import math
from fractions import Fraction
from itertools import permutations

import torch
from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation import State
from flserver.aggregation.strategies.fedavg import CHUNK, FedAvg
from tests.examples import times

FLOATS = {
    torch.float16: st.floats(width=16, allow_nan=False, allow_infinity=False),
    torch.float32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    torch.float64: st.floats(allow_nan=False, allow_infinity=False, min_value=-1e290, max_value=1e290),
    torch.bfloat16: st.integers(0, 2**16 - 1)
    .map(lambda bits: float(torch.tensor(bits - 2**15, dtype=torch.int16).view(torch.bfloat16)))
    .filter(math.isfinite),
}


def average(global_state: State, updates: list[tuple[State, int]]) -> State:
    fedavg = FedAvg()
    fedavg.begin(global_state)
    for update, n in updates:
        fedavg.add(update, n)
    return fedavg.finish()


def ulp(dtype: torch.dtype, size: Fraction) -> Fraction:
    """The distance between neighbours of ``dtype`` at a number of this size."""
    info = torch.finfo(dtype)
    smallest_normal = Fraction(info.smallest_normal)
    exponent = math.floor(math.log2(max(size, smallest_normal)))
    while Fraction(2) ** exponent > max(size, smallest_normal):
        exponent -= 1
    return Fraction(2) ** exponent * Fraction(info.eps)


@st.composite
def clients(draw: st.DrawFn) -> tuple[torch.dtype, list[tuple[list[float], int]]]:
    dtype = draw(st.sampled_from(list(FLOATS)))
    width = draw(st.integers(1, 4))
    values = st.lists(FLOATS[dtype], min_size=width, max_size=width)
    return dtype, draw(st.lists(st.tuples(values, st.integers(1, 2**29 - 1)), min_size=1, max_size=6))


@times(3)
@given(clients())
def test_it_is_within_a_unit_of_the_exact_mean(case: tuple[torch.dtype, list[tuple[list[float], int]]]) -> None:
    dtype, members = case
    updates = [({"w": torch.tensor(values, dtype=dtype)}, n) for values, n in members]
    got = average({"w": torch.zeros(len(members[0][0]), dtype=dtype)}, updates)["w"]
    total = sum(n for _, n in members)
    units = len(members) + 2 if dtype == torch.float64 else 1
    for i, value in enumerate(got.to(torch.float64).tolist()):
        column = [(Fraction(float(update["w"][i])), n) for update, n in updates]
        exact = sum((n * w for w, n in column), Fraction(0)) / total
        size = sum((n * abs(w) for w, n in column), Fraction(0)) / total
        assert abs(Fraction(value) - exact) <= units * ulp(dtype, size)


@times(0.5)
@given(clients(), st.randoms(use_true_random=False))
def test_the_same_updates_give_the_same_bits_in_any_split(
    case: tuple[torch.dtype, list[tuple[list[float], int]]], random: object
) -> None:
    """Alone or beside other tensors, fresh or after another round: the same bits."""
    dtype, members = case
    updates = [({"w": torch.tensor(values, dtype=dtype)}, n) for values, n in members]
    shape = {"w": torch.zeros(len(members[0][0]), dtype=dtype)}
    expected = average(shape, updates)["w"]
    used = FedAvg()
    used.begin(shape)
    used.add({"w": torch.ones_like(shape["w"])}, 7)
    used.begin(shape)
    for update, n in updates:
        used.add(update, n)
    assert torch.equal(used.finish()["w"].view(torch.uint8), expected.view(torch.uint8))


def test_products_of_float32_and_large_weights_are_exact() -> None:
    w = torch.tensor([1 + 2**-23], dtype=torch.float32)
    n = 2**29 - 1
    mean = average({"w": w}, [({"w": w}, n), ({"w": w}, 1)])["w"]
    assert torch.equal(mean, w)


def test_a_float64_product_is_rounded_before_it_is_added() -> None:
    a, b = 0.1, 0.3
    got = average({"w": torch.zeros(1, dtype=torch.float64)}, [
        ({"w": torch.tensor([a], dtype=torch.float64)}, 3),
        ({"w": torch.tensor([b], dtype=torch.float64)}, 7),
    ])["w"].item()  # fmt: skip
    assert got == (a * 3 + b * 7) / 10


def test_integer_and_boolean_tensors_take_the_median_whatever_the_weights() -> None:
    state = {"count": torch.tensor(0), "mask": torch.tensor([False, False])}
    mean = average(state, [
        ({"count": torch.tensor(5), "mask": torch.tensor([True, False])}, 1),
        ({"count": torch.tensor(-3), "mask": torch.tensor([False, False])}, 9),
        ({"count": torch.tensor(4), "mask": torch.tensor([True, True])}, 1),
    ])  # fmt: skip
    assert mean["count"].item() == 4
    assert mean["mask"].tolist() == [True, False]


def test_large_tensors_are_folded_in_pieces_without_a_seam() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(2 * CHUNK + 17, generator=generator) for _ in range(3)]
    got = average({"w": rows[0]}, [({"w": row}, n) for row, n in zip(rows, (1, 5, 11), strict=True)])["w"]
    expected = (rows[0].double() + rows[1].double() * 5 + rows[2].double() * 11) / 17
    assert torch.equal(got, expected.float())


def test_the_result_is_not_the_strategys_own_memory() -> None:
    fedavg = FedAvg()
    state = {"w": torch.ones(3, dtype=torch.float64), "n": torch.tensor([1])}
    fedavg.begin(state)
    fedavg.add(state, 1)
    first = fedavg.finish()
    fedavg.begin(state)
    fedavg.add({"w": torch.full((3,), 9.0, dtype=torch.float64), "n": torch.tensor([9])}, 1)
    fedavg.finish()
    assert first["w"].tolist() == [1.0, 1.0, 1.0]
    assert first["n"].tolist() == [1]


def test_non_contiguous_updates_are_read_as_they_are_shaped() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    got = average({"w": torch.zeros(4, 3)}, [({"w": base.t()}, 2)])["w"]
    assert torch.equal(got, base.t())


def test_the_order_of_two_large_and_one_small_number_matters_so_it_is_fixed() -> None:
    """Why the coordinator folds in the order of the ids: float64 addition is not associative."""
    columns = [torch.tensor([v], dtype=torch.float64) for v in (1e16, -1e16, 1.0)]
    results = {
        average({"w": columns[0]}, [({"w": c}, 1) for c in order])["w"].item() for order in permutations(columns)
    }
    assert len(results) > 1
