"""How far, and in which direction, an update goes."""

import math

import pytest
import torch

from flserver.aggregation import kernel
from flserver.aggregation.checks import inspect
from flserver.aggregation.steps import CHUNK, cosine, distances, step_of

FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATING)
def test_numba_and_numpy_measure_what_exact_arithmetic_measures(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    for count in (0, 1, 63, 64, 65, 1000):
        tensors = [torch.randn(count, generator=generator).to(dtype) for _ in range(3)]
        triples = list(zip(*(tensor.tolist() for tensor in tensors), strict=True))
        square = math.fsum((a - b) ** 2 for a, b, _ in triples)
        product = math.fsum((a - b) * (b - c) for a, b, c in triples)
        wide = [tensor.to(torch.float64) if tensor.itemsize < 4 else tensor for tensor in tensors]
        for found in (kernel.load().distances(*wide), kernel.Plain().distances(*wide), distances(*tensors)):
            assert found == (pytest.approx(square, rel=1e-12), pytest.approx(product, rel=1e-9, abs=1e-9))


@pytest.mark.parametrize("dtype", FLOATING)
def test_a_large_tensor_is_measured_whole_and_twice_the_same(dtype: torch.dtype) -> None:
    given, sent, before = (torch.full((2 * CHUNK + 3,), value, dtype=dtype) for value in (3.0, 1.0, 0.5))
    count = float(2 * CHUNK + 3)
    assert distances(given, sent, before) == distances(given, sent, before) == (4 * count, count)


def state(w: list[float], **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(w), "n": torch.tensor(4)} | more


@pytest.mark.parametrize(
    ("update", "found"),
    [
        ([3.0, 1.0], 1.0),
        ([-5.0, 1.0], -1.0),
        ([1.0, 9.0], 0.0),
        ([2.0, 2.0], math.sqrt(0.5)),
        ([1.0, 1.0], None),  # it has not moved
    ],
)
def test_an_updates_cosine_is_of_the_angle_to_the_last_step(update: list[float], found: float | None) -> None:
    before, sent = state([0.0, 1.0]), state([1.0, 1.0])
    measured = inspect(state(update), sent, {}, step=step_of(before, sent)).cosine
    assert measured == (None if found is None else pytest.approx(found, abs=1e-12))


def test_parameters_and_buffers_are_one_direction_and_integers_none() -> None:
    before = state([0.0, 0.0], mean=torch.zeros(1))
    sent = state([1.0, 0.0], mean=torch.ones(1), n=torch.tensor(5))
    update = state([2.0, 0.0], mean=torch.ones(1), n=torch.tensor(9))
    assert inspect(update, sent, {}, {"mean"}, step_of(before, sent)).cosine == pytest.approx(math.sqrt(0.5))


def test_without_a_step_there_is_no_cosine_and_the_norms_are_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(9)
    update, sent, before = ({"w": torch.randn(1001, generator=generator)} for _ in range(3))
    without, measured = inspect(update, sent, {}), inspect(update, sent, {}, step=step_of(before, sent))
    assert (without.cosine, measured.cosine is None) == (None, False)
    assert without.norms == measured.norms


def test_a_step_without_a_direction_is_none() -> None:
    assert step_of(state([1.0, 2.0]), state([1.0, 2.0], n=torch.tensor(7))) is None
    huge = {"w": torch.tensor([1e300], dtype=torch.float64)}
    assert step_of({"w": -huge["w"]}, huge) is None, "its square is no float64"
    step = step_of(state([0.0, 0.0]), state([3.0, 4.0]))
    assert step is not None
    assert step.norm == 5.0


def test_what_is_not_finite_has_no_cosine() -> None:
    assert cosine(1.0, math.inf, 1.0) is cosine(math.nan, 1.0, 1.0) is cosine(math.inf, 1.0, 1.0) is None
    assert cosine(1.0, 0.0, 1.0) is cosine(1.0, 1.0, 0.0) is None
    assert cosine(1.0 + 1e-15, 1.0, 1.0) == 1.0, "a rounding error is no angle"
    sent = state([1.0, 1.0])
    odd = inspect(state([math.nan, 1.0]), sent, {}, step=step_of(state([0.0, 1.0]), sent))
    assert odd.cosine is odd.norms is None
    assert (odd.rejection or "").startswith("non_finite")
