"""Loss and accuracy of a global model, and what the operator's own function measures of it."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import torch
from torch import nn

from flserver.errors import UsageError
from flserver.models.datasets import load_test
from flserver.models.measuring import check_data_fits, device_for, loss_and_accuracy
from flserver.models.state import State, load_state
from flserver.plugins import import_attribute
from flserver.settings import EvaluationPolicy

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
        """What was measured of ``state``, the global model of ``round``: finite numbers by name.

        ``loss`` is the mean negative log-likelihood in nats, ``accuracy`` is from 0 to 1. Where ``--evaluate`` gives a
        number of the same name, that one stands. What fails or is not finite is logged as a warning and left out: a
        round does not fail because it could not be measured.
        """
        load_state(self._module, state)
        numbers: dict[str, float] = {}
        for source, measure in self._sources:
            try:
                with torch.no_grad():
                    numbers |= _finite(measure(self._module.eval(), round), f"round {round}: {source}")
            except Exception:
                logger.warning("round %d: %s failed", round, source, exc_info=True)
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


def _finite(measured: object, source: str) -> dict[str, float]:
    if not isinstance(measured, Mapping):
        logger.warning("%s gave a %s, not a dict", source, type(measured).__name__)
        return {}
    numbers = {}
    for name, value in measured.items():
        if not isinstance(name, str):
            logger.warning("%s gave %.60r as a name, not a str", source, name)
        elif not isinstance(value, Real) or not math.isfinite(value):
            logger.warning("%s gave %s = %.60r, not a finite number", source, name, value)
        else:
            numbers[name] = float(value)
    return numbers
