"""How an update that comes in other clothes fits the model that was sent."""

import pytest
import torch

from flserver.aggregation.fit import Fit, converted, fit
from flserver.models.state import State, state_bytes

ALL = frozenset({"float16", "bfloat16", "float64"})


def model() -> State:
    return {
        "layer.w": torch.zeros(2, 3),
        "layer.b": torch.zeros(2),
        "norm.steps": torch.tensor(0),
    }


def under(prefix: str, **more: torch.Tensor) -> State:
    return {prefix + name: tensor for name, tensor in model().items()} | more


def fitting(update: State, accept: frozenset[str] = ALL) -> Fit:
    found = fit(update, model(), accept)
    assert isinstance(found, Fit), found
    return found


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_module.", "module.module.", "_orig_mod.module."])
def test_a_uniform_prefix_is_taken_off(prefix: str) -> None:
    found = fitting(under(prefix))
    assert list(found.tensors) == list(model())
    assert found.prefix == prefix
    assert found.note == (f"unwrapped: {prefix}" if prefix else None)


def test_the_order_of_the_names_is_the_models() -> None:
    assert list(fitting(dict(reversed(under("module.").items()))).tensors) == list(model())


def test_a_wrappers_own_counter_is_left_out() -> None:
    assert fitting(under("module.", n_averaged=torch.tensor(7))).prefix == "module."
    assert fitting(under("_orig_mod.module.") | {"_orig_mod.n_averaged": torch.tensor(7)}).prefix == "_orig_mod.module."


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({}, "names: the update lacks 'layer.w'"),
        (under("") | {"extra": torch.tensor(1)}, "names: the update adds 'extra'"),
        (under("module.") | {"module.extra": torch.tensor(1)}, "names: the update lacks 'layer.w' and adds 'module."),
        (under("module.", extra=torch.zeros(3)), "names: "),  # no counter
        (under("module.", extra=torch.tensor(0.5)), "names: "),
        (under("module"), "names: "),  # no part of a name
        ({"module." + name: t for name, t in list(model().items())[:2]}, "names: "),
    ],
)
def test_other_names_do_not_fit(update: State, reason: str) -> None:
    found = fit(update, model(), ALL)
    assert isinstance(found, str)
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("part", "whose"), [("_orig_mod", "torch.compile"), ("_module", "Opacus"), ("parametrizations", "parametrize")]
)
def test_the_reason_names_the_likely_wrapper(part: str, whose: str) -> None:
    update = model()
    update[f"layer.{part}.w"] = update.pop("layer.w")
    found = fit(update, model(), ALL)
    assert isinstance(found, str)
    assert whose in found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_converted_where_they_are_accepted(dtype: torch.dtype) -> None:
    update = model() | {"layer.w": torch.tensor([[0.1, -2.5, 3.0], [0.0, -0.0, 7.25]], dtype=torch.float64).to(dtype)}
    found = fitting(update)
    kind = str(dtype).removeprefix("torch.")
    assert (found.converting, found.note) == ((kind,), f"converted: {kind}")
    made = converted(found, model(), memoryview(bytearray(state_bytes(model()))))
    assert {name: tensor.dtype for name, tensor in made.items()} == {n: t.dtype for n, t in model().items()}
    assert torch.equal(made["layer.w"], update["layer.w"].to(torch.float32))
    refused = fit(update, model(), ALL - {kind})
    assert refused == f"dtype: layer.w is {kind} where the model has float32"


def test_what_is_too_large_for_the_model_becomes_infinite() -> None:
    found = fitting(model() | {"layer.b": torch.tensor([1e300, 1.0], dtype=torch.float64)})
    made = converted(found, model(), memoryview(bytearray(state_bytes(model()))))
    assert torch.isinf(made["layer.b"][0])


def test_integers_and_models_of_other_dtypes_stay_as_they_are() -> None:
    assert fit(model() | {"norm.steps": torch.tensor(0.0)}, model(), ALL) == (
        "dtype: norm.steps is float32 where the model has int64"
    )
    half = {"w": torch.zeros(2).half()}
    assert fit({"w": torch.zeros(2)}, half, ALL) == "dtype: w is float32 where the model has float16"


def test_another_shape_does_not_fit() -> None:
    assert fit(model() | {"layer.w": torch.zeros(3, 2)}, model(), ALL) == (
        "shape: layer.w is [3, 2] where the model has [2, 3]"
    )
