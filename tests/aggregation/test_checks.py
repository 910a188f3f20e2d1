"""What an update is held against before it counts."""

import math

import pytest
import torch

from flserver.aggregation.checks import Norms, implausible, inspect, state_digest
from flserver.aggregation.steps import CHUNK


def model() -> dict[str, torch.Tensor]:
    return {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2), "n": torch.tensor(4)}


def test_a_fit_update_has_a_norm_and_no_rejection() -> None:
    update = model()
    update["w"] = update["w"] + 3.0
    update["b"] = update["b"] - 4.0
    inspection = inspect(update, model(), {})
    assert inspection.rejection is None
    assert inspection.norms is not None
    assert inspection.norms.whole == pytest.approx(math.sqrt(6 * 9 + 2 * 16))


@pytest.mark.parametrize(
    ("update", "kind"),
    [
        (model() | {"b": torch.tensor([0.0, math.nan])}, "non_finite: b"),
        (model() | {"b": torch.tensor([math.inf, 0.0])}, "non_finite: b"),
        (model() | {"b": torch.tensor([-math.inf, 0.0])}, "non_finite: b"),
    ],
)
def test_an_unfit_one_is_rejected_with_its_kind(update: dict[str, torch.Tensor], kind: str) -> None:
    inspection = inspect(update, model(), {})
    assert inspection.rejection is not None
    assert inspection.rejection.startswith(kind)
    assert inspection.norms is None


def test_a_nan_in_the_last_piece_of_a_large_tensor_is_seen() -> None:
    sent = {"w": torch.zeros(3 * CHUNK + 5)}
    update = {"w": torch.zeros(3 * CHUNK + 5)}
    update["w"][-1] = math.nan
    assert (inspect(update, sent, {}).rejection or "").startswith("non_finite")


def test_huge_finite_float64_values_are_finite_although_their_squares_are_not() -> None:
    sent = {"w": torch.zeros(2, dtype=torch.float64)}
    inspection = inspect({"w": torch.tensor([1e200, 0.0], dtype=torch.float64)}, sent, {})
    assert (inspection.rejection, inspection.norms) == (None, Norms(math.inf, 0.0))


def test_float64_values_that_would_overflow_everybodys_sum_are_rejected() -> None:
    sent = {"w": torch.zeros(2, dtype=torch.float64)}
    large = {"w": torch.tensor([0.0, -1.7e308], dtype=torch.float64)}
    assert (inspect(large, sent, {}).rejection or "").startswith("other: w holds values too large")
    infinite = {"w": torch.tensor([math.inf, 0.0], dtype=torch.float64)}
    assert (inspect(infinite, sent, {}).rejection or "").startswith("non_finite")
    mixed = {"w": torch.tensor([math.nan, 1.7e308], dtype=torch.float64)}
    assert (inspect(mixed, sent, {}).rejection or "").startswith(("non_finite", "other"))


def test_bytes_that_are_no_booleans_are_rejected() -> None:
    sent = {"mask": torch.tensor([True, False])}
    odd = torch.tensor([1, 2], dtype=torch.uint8).view(torch.bool)
    assert (inspect({"mask": odd}, sent, {}).rejection or "").startswith("other: mask")
    assert inspect({"mask": torch.tensor([False, True])}, sent, {}).rejection is None


def test_tied_weights_must_stay_equal() -> None:
    sent = {"a": torch.zeros(3), "b": torch.zeros(3)}
    equal = torch.ones(3)
    assert inspect({"a": equal, "b": equal}, sent, {"b": "a"}).rejection is None
    assert inspect({"a": equal, "b": equal.clone()}, sent, {"b": "a"}).rejection is None
    assert (inspect({"a": equal, "b": equal * 2}, sent, {"b": "a"}).rejection or "").startswith("other:")


def test_the_digest_is_of_names_dtypes_shapes_and_values_only() -> None:
    digest = state_digest(model())
    assert digest.startswith("blake3:")
    assert state_digest(dict(reversed(model().items()))) == digest
    transposed = model()
    transposed["w"] = transposed["w"].t().contiguous().t()
    assert state_digest(transposed) == digest
    for changed in (
        model() | {"w": torch.arange(6.0).reshape(3, 2)},
        model() | {"n": torch.tensor(4, dtype=torch.int32)},
        model() | {"b": torch.tensor([0.0, 1e-30])},
        model() | {"b": torch.tensor([0.0, -0.0])},
    ):
        assert state_digest(changed) != digest


def normed(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = {"w": torch.zeros(3), "norm.running_mean": torch.zeros(2), "norm.running_var": torch.ones(2)}
    return tensors | {name.replace("__", "."): tensor for name, tensor in changed.items()}


def test_buffers_have_a_norm_of_their_own() -> None:
    moved = normed(w=torch.tensor([0.0, 3.0, 0.0]), norm__running_mean=torch.tensor([0.0, 4.0]))
    inspection = inspect(moved, normed(), {}, {"norm.running_mean", "norm.running_var"})
    assert inspection.norms == Norms(3.0, 4.0)
    assert inspection.norms.whole == 5.0


def test_a_negative_variance_is_rejected_unless_the_model_has_one() -> None:
    negative = normed(norm__running_var=torch.tensor([1.0, -1e-6]))
    assert inspect(negative, normed(), {}).rejection == "other: norm.running_var holds a negative variance"
    assert inspect(negative, negative, {}).rejection is None
    assert inspect(normed(w=torch.full((3,), -1.0)), normed(), {}).rejection is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_new_model_is_implausible_where_it_is_not_finite_or_has_a_negative_variance(dtype: torch.dtype) -> None:
    def state(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
        whole = normed(**changed) | {"n": torch.tensor(-5), "empty": torch.zeros(0)}
        return {n: t.to(dtype) if t.is_floating_point() else t for n, t in whole.items()}

    assert implausible(state()) is None
    assert implausible(state(w=torch.tensor([-1.0, 2.0, 60000.0]))) is None
    for wrong in (math.nan, math.inf, -math.inf):
        assert implausible(state(w=torch.tensor([0.0, wrong, 1.0]))) == "w holds NaN or infinity"
    negative = state(norm__running_var=torch.tensor([1.0, -0.5]))
    assert implausible(negative) == "norm.running_var holds a negative variance"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_norm_is_of_the_difference_and_what_is_not_finite_is_seen(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    for count in (0, 1, 63, 64, 65, 1000):
        one, other = (torch.randn(count, generator=generator).to(dtype) for _ in range(2))
        exact = math.fsum((a - b) ** 2 for a, b in zip(one.tolist(), other.tolist(), strict=True))
        norms = inspect({"w": one}, {"w": other}, {}).norms
        assert norms is not None
        assert norms.parameters == pytest.approx(math.sqrt(exact), rel=1e-12)
        for wrong in (math.nan, math.inf, -math.inf) if count else ():
            odd = one.clone()
            odd[count - 1] = wrong
            assert (inspect({"w": odd}, {"w": other}, {}).rejection or "").startswith("non_finite")
