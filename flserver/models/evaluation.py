"""Loss and accuracy of a global model, and what the operator's own function measures of it."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flserver.errors import UsageError
from flserver.models.datasets import load_test
from flserver.models.measuring import check_data_fits, device_for, loss_and_accuracy
from flserver.models.state import State, load_state
from flserver.plugins import import_attribute
from flserver.settings import EvaluationPolicy
from flserver.text import json_number

ROUNDING = 1e-6  # by which a mean of float32 numbers may be over the largest of them
logger = logging.getLogger(__name__)

Measure = Callable[[nn.Module, int], object]
"""Takes a model, in evaluation mode and on the evaluator's device, and its round; should return numbers by name."""


class Evaluator:
    """Measures every global model with each of its sources."""

    def __init__(self, module: nn.Module, device: torch.device, sources: Sequence[tuple[str, Measure]]) -> None:
        """``module``, which becomes the evaluator's own, is what states are loaded into; it is moved to ``device``.

        ``sources`` are what measures, one or more, each with the option it came from.
        """
        self._module = module.to(device)
        self._sources = tuple(sources)

    def evaluate(self, state: State, round: int) -> dict[str, float]:
        """What was measured of ``state``, the global model of ``round``: numbers by name, NaN and infinities included.

        ``loss`` is the mean negative log-likelihood in nats, ``accuracy`` is from 0 to 1. Where ``--evaluate`` gives a
        number of the same name, that one stands. What fails or is no number is logged as a warning and left out: a
        round does not fail because it could not be measured. But nobody has trained round 0 yet: an accuracy of its
        model that cannot be one raises UsageError, so that it is put right before it is in every round.
        """
        load_state(self._module, state)
        numbers: dict[str, float] = {}
        for source, measure in self._sources:
            try:
                with torch.no_grad():
                    measured = _numbers(measure(self._module.eval(), round), f"round {round}: {source}")
            except Exception:
                logger.warning("round %d: %s failed", round, source, exc_info=True)
                continue
            if (wrong := _take_accuracy(measured, source)) is not None:
                if round == 0:
                    raise UsageError(wrong)
                logger.warning("round %d: %s; it is left out", round, wrong)
            numbers |= measured
        return numbers


def evaluator_for(policy: EvaluationPolicy, build_module: Callable[[], nn.Module]) -> Evaluator | None:
    """What measures global models on ``--eval-data`` and with ``--evaluate``; None where neither is given.

    ``build_module`` makes a model on the CPU to measure with; it is called only where there is something to measure.
    Raises UsageError where the data, the function or CUDA is not there, or the model does not take the data. (CUDA that
    was asked for is looked for in any case.)
    """
    device = device_for(policy.use_cuda)
    if policy.eval_data is None and policy.evaluate is None:
        return None
    module = build_module()
    sources: list[tuple[str, Measure]] = []
    if policy.eval_data is not None:
        option = f"--eval-data {policy.eval_data}"
        sources.append((option, _on_data(module, policy.eval_data, policy.data_dir, device, option)))
    if policy.evaluate is not None:
        sources.append((f"--evaluate {policy.evaluate}", _of_the_operator(policy.evaluate)))
    return Evaluator(module, device, sources)


def _on_data(module: nn.Module, dataset: str, data_dir: Path | None, device: torch.device, option: str) -> Measure:
    """Loss and accuracy on a data set, which ``module`` must take."""
    x, y = load_test(dataset, data_dir)
    check_data_fits(module, x, y, option)

    def measure(module: nn.Module, round: int) -> dict[str, float]:
        loss, accuracy = loss_and_accuracy(module, x, y, device)
        return {"loss": loss, "accuracy": accuracy}

    return measure


def _of_the_operator(spec: str) -> Measure:
    function = import_attribute(spec, "--evaluate")
    if not callable(function):
        raise UsageError(f"--evaluate {spec!r} is a {type(function).__name__}, not a function")
    measure: Measure = function
    return measure


def _numbers(measured: object, source: str) -> dict[str, float]:
    """The numbers in what ``source`` gave; the rest is logged."""
    if not isinstance(measured, Mapping):
        logger.warning("%s gave a %s, not a dict", source, type(measured).__name__)
        return {}
    numbers = {}
    for name, value in measured.items():
        if not isinstance(name, str):
            logger.warning("%s gave %.60r as a name, not a str", source, name)
        elif (number := _number(value)) is None:
            logger.warning("%s gave %s = %.60r, not a number", source, name, value)
        else:
            numbers[name] = number
            if not math.isfinite(number):
                logger.warning("%s gave %s = %s: the model may have diverged", source, name, json_number(number))
    return numbers


def _number(value: Any) -> float | None:
    """``value`` as a float, None where it is no number. A tensor, or an array, without dimensions is the number in it,
    and so are numpy's scalars."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64
        return None


def _take_accuracy(numbers: dict[str, float], source: str) -> str | None:
    """Take an accuracy out of ``numbers`` that is not from 0 to 1, and say what is wrong with it."""
    accuracy = numbers.get("accuracy")
    if accuracy is None or not math.isfinite(accuracy):
        return None
    if 0 <= accuracy <= 1 + ROUNDING:
        numbers["accuracy"] = min(accuracy, 1.0)
        return None
    del numbers["accuracy"]
    return (
        f"{source} gave accuracy = {accuracy:g}, which must be from 0 to 1: divide a percentage by 100, or give the "
        "number another name"
    )
