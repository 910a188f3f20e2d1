"""Loss and accuracy of a global model, and the operator's own function."""

import logging
import math
import sys

import pytest
import torch
from torch import nn

from flserver.errors import UsageError
from flserver.models.architectures import DEFAULT_MODEL, build
from flserver.models.evaluation import evaluator_for
from flserver.models.state import state_of
from flserver.settings import EvaluationPolicy
from tests.fldata import write_fldata

MINE = """
import decimal
import fractions
import numpy
import torch
calls = []

def measure(module, round):
    calls.append((module.training, torch.is_grad_enabled(), round))
    module.train()
    return {"first": next(module.parameters()).flatten()[0].item(), "round": round, "accuracy": 0.25}

def raises(module, round):
    raise RuntimeError("out of memory")

def nothing(module, round):
    return None

def mixed(module, round):
    return {"good": 1, "bad": None, "worse": "0.5", 3: 0.1, "huge": 10**400, "many": torch.zeros(2), "i": 1j,
            "one": torch.zeros(1), "name": numpy.str_("0.5")}

def scalars(module, round):
    outputs, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    return {
        "accuracy": (outputs.argmax(1) == labels).float().mean(),
        "loss": torch.nn.functional.cross_entropy(outputs, labels).requires_grad_(),
        "half": torch.tensor(0.5, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "all": torch.tensor(True),
        "float32": numpy.float32(0.25),
        "float16": numpy.float16(0.5),
        "int64": numpy.int64(3),
        "bool": numpy.bool_(True),
        "array": numpy.array(0.125),
        "mean": numpy.mean(numpy.array([1, 2])),
        "decimal": decimal.Decimal("0.5"),
        "fraction": fractions.Fraction(1, 4),
    }

def diverged(module, round):
    return {"loss": torch.tensor(float("nan")), "accuracy": 0.1, "up": float("inf"), "down": -numpy.float32("inf")}

def percent(module, round):
    return {"accuracy": given, "loss": 0.5}

not_a_function = 3
"""


@pytest.fixture(autouse=True)
def mine(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "mine", None)
    del sys.modules["mine"]


def policy(**given):
    return EvaluationPolicy(**({"eval_data": None, "data_dir": None, "evaluate": None, "use_cuda": False} | given))


def default_model():
    return build(DEFAULT_MODEL, 0)


def test_every_models_loss_and_accuracy_on_all_test_files(tmp_path):
    write_fldata(tmp_path, [1, 2])
    evaluator = evaluator_for(policy(eval_data="fldata", data_dir=tmp_path), default_model)
    module = default_model()
    from flserver.models.datasets import load_test

    x, y = load_test("fldata", tmp_path)
    for seed in (1, 2):  # the evaluator's module is loaded anew each time
        module = build(DEFAULT_MODEL, seed)
        expected = torch.nn.functional.nll_loss(module(x), y).item()
        right = (module(x).argmax(1) == y).float().mean().item()
        assert evaluator.evaluate(state_of(module), 3) == pytest.approx({"loss": expected, "accuracy": right})


def test_the_operators_function_sees_the_model_and_the_round_and_has_the_last_word():
    evaluator = evaluator_for(policy(eval_data="digits", evaluate="mine:measure"), default_model)
    state = state_of(build(DEFAULT_MODEL, 4))
    for number in (1, 2):
        measured = evaluator.evaluate(state, number)
        assert measured["first"] == state["fc1.weight"].flatten()[0].item()
        assert measured["round"] == number
        assert measured["accuracy"] == 0.25
        assert measured["loss"] > 0
    assert sys.modules["mine"].calls == [(False, False, 1), (False, False, 2)]


@pytest.mark.parametrize(
    ("function", "kept", "reasons"),
    [
        ("raises", {}, ["round 5: --evaluate mine:raises failed"]),
        ("nothing", {}, ["gave a NoneType, not a dict"]),
        (
            "mixed",
            {"good": 1.0},
            [
                "gave bad = None, not a number",
                "gave worse = '0.5', not a number",
                "gave 3 as a name, not a str",
                "gave huge = 1000",
                "gave many = tensor([0., 0.]), not a number",
                "gave i = 1j, not a number",
                "gave one = tensor([0.]), not a number",
                "gave name = ",
            ],
        ),
    ],
)
def test_what_cannot_be_measured_is_a_warning(caplog, function, kept, reasons):
    evaluator = evaluator_for(policy(evaluate=f"mine:{function}"), default_model)
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate(state_of(default_model()), 5) == kept
    for reason, record in zip(reasons, caplog.records, strict=True):
        assert reason in record.getMessage()
    if function == "raises":
        assert "out of memory" in caplog.text


def test_a_tensor_without_dimensions_and_a_scalar_of_numpys_are_numbers(caplog):
    measured = evaluator_for(policy(evaluate="mine:scalars"), default_model).evaluate(state_of(default_model()), 0)
    assert {type(number) for number in measured.values()} == {float}
    assert measured.pop("loss") == pytest.approx(0.9937, abs=1e-4)
    assert measured == {
        **{"accuracy": 0.75, "half": 0.5, "count": 7, "all": 1, "float32": 0.25, "float16": 0.5, "int64": 3},
        **{"bool": 1, "array": 0.125, "mean": 1.5, "decimal": 0.5, "fraction": 0.25},
    }
    assert caplog.records == []


def test_a_model_that_diverged_has_the_loss_that_it_has(caplog):
    evaluator = evaluator_for(policy(eval_data="digits"), default_model)
    state = {name: torch.full_like(tensor, torch.inf) for name, tensor in state_of(default_model()).items()}
    measured = evaluator.evaluate(state, 1)
    assert list(measured) == ["loss", "accuracy"]
    assert math.isnan(measured["loss"])
    assert "round 1: --eval-data digits gave loss = NaN: the model may have diverged" in caplog.text


def test_nan_and_infinity_of_the_operators_function_stay_what_they_are(caplog):
    measured = evaluator_for(policy(evaluate="mine:diverged"), default_model).evaluate(state_of(default_model()), 0)
    assert repr(measured) == "{'loss': nan, 'accuracy': 0.1, 'up': inf, 'down': -inf}"
    told = [record.getMessage().removeprefix("round 0: --evaluate mine:diverged gave ") for record in caplog.records]
    assert told == [
        f"{what}: the model may have diverged" for what in ("loss = NaN", "up = Infinity", "down = -Infinity")
    ]


@pytest.mark.parametrize("given", [93.0, 1.01, -0.5, 100])
def test_an_accuracy_that_cannot_be_one_is_refused_at_round_0_and_left_out_later(caplog, given):
    evaluator = evaluator_for(policy(evaluate="mine:percent"), default_model)
    sys.modules["mine"].given = given
    wrong = (
        f"--evaluate mine:percent gave accuracy = {given:g}, which must be from 0 to 1: divide a percentage by 100, or "
        "give the number another name"
    )
    with pytest.raises(UsageError) as refused:
        evaluator.evaluate(state_of(default_model()), 0)
    assert str(refused.value) == wrong
    assert evaluator.evaluate(state_of(default_model()), 1) == {"loss": 0.5}
    assert [record.getMessage() for record in caplog.records] == [f"round 1: {wrong}; it is left out"]


@pytest.mark.parametrize(
    ("given", "accuracy"),
    [(0, 0.0), (1, 1.0), (1 + 1e-7, 1.0), (float("nan"), float("nan")), (torch.tensor(0.93), 0.93)],
)
def test_an_accuracy_that_can_be_one_is_taken(given, accuracy):
    evaluator = evaluator_for(policy(evaluate="mine:percent"), default_model)
    sys.modules["mine"].given = given
    assert evaluator.evaluate(state_of(default_model()), 0)["accuracy"] == pytest.approx(accuracy, nan_ok=True)


def test_without_data_and_function_there_is_no_evaluator_and_no_second_model():
    built = []
    assert evaluator_for(policy(), lambda: built.append(None)) is None
    assert built == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"evaluate": "mine:absent"}, "--evaluate 'mine:absent': mine has no absent"),
        ({"evaluate": "no_such_module:f"}, "cannot import no_such_module"),
        ({"evaluate": "mine:not_a_function"}, "is a int, not a function"),
        ({"eval_data": "nothing"}, "there is no data set 'nothing'"),
    ],
)
def test_what_is_not_there_is_told_at_the_start(given, reason):
    with pytest.raises(UsageError, match=reason):
        evaluator_for(policy(**given), default_model)


def test_a_model_that_does_not_take_the_data_is_told_at_the_start():
    with pytest.raises(UsageError, match="does not take --eval-data digits of shape"):
        evaluator_for(policy(eval_data="digits"), lambda: nn.Linear(3, 2))


def test_cuda_that_is_not_there_is_told_at_the_start(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given in ({}, {"eval_data": "digits"}):  # also where it would not be used
        with pytest.raises(UsageError, match="no CUDA"):
            evaluator_for(policy(use_cuda=True, **given), default_model)
    module = default_model()
    evaluator_for(policy(use_cuda=None, evaluate="mine:measure"), lambda: module)
    assert {tensor.device.type for tensor in module.parameters()} == {"cpu"}
