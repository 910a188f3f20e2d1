"""Loss and accuracy of a global model, and what the operator's own function measures of it."""

import logging
import math
from collections.abc import Callable, Mapping
from numbers import Real

import torch
from torch import nn

from flserver.errors import UsageError
from flserver.models.datasets import load_test
from flserver.models.measuring import check_data_fits, device_for, loss_and_accuracy
from flserver.models.state import State, load_state
from flserver.plugins import import_attribute
from flserver.settings import EvaluationPolicy

logger = logging.getLogger(__name__)


class Evaluator:
    """Measures every global model on ``--eval-data`` and with ``--evaluate``; with neither it measures nothing."""

    def __init__(self, policy: EvaluationPolicy, build_module: Callable[[], nn.Module]) -> None:
        """``build_module`` makes the model that states are loaded into.

        Raises UsageError where the data, the function or CUDA is not there, or the model does not take the data.
        """
        self._device = device_for(policy.use_cuda)
        self._module = build_module()
        self._sources: list[tuple[str, Callable[[nn.Module, int], object]]] = []
        if policy.eval_data is not None:
            x, y = load_test(policy.eval_data, policy.data_dir)
            check_data_fits(self._module, x, y, f"--eval-data {policy.eval_data}")

            def measure(module: nn.Module, round: int) -> dict[str, float]:
                loss, accuracy = loss_and_accuracy(module, x, y, self._device)
                return {"loss": loss, "accuracy": accuracy}

            self._sources.append((f"--eval-data {policy.eval_data}", measure))
        if policy.evaluate is not None:
            function = import_attribute(policy.evaluate, "--evaluate")
            if not callable(function):
                raise UsageError(f"--evaluate {policy.evaluate!r} is a {type(function).__name__}, not a function")
            self._sources.append((f"--evaluate {policy.evaluate}", function))
        self._module.to(self._device)

    @property
    def enabled(self) -> bool:
        """Whether there is anything to measure."""
        return bool(self._sources)

    @property
    def device(self) -> torch.device:
        """Where the model is when it is measured."""
        return self._device

    def evaluate(self, state: State, round: int) -> dict[str, float]:
        """What was measured of ``state``, the global model of ``round``: finite numbers by name.

        ``loss`` is the mean negative log-likelihood in nats, ``accuracy`` is from 0 to 1. Where ``--evaluate`` gives a
        number of the same name, that one stands. What fails or is not finite is logged as a warning and left out: a
        round does not fail because it could not be measured.
        """
        numbers: dict[str, float] = {}
        if not self._sources:
            return numbers
        load_state(self._module, state)
        for source, function in self._sources:
            try:
                with torch.no_grad():
                    numbers |= _finite(function(self._module.eval(), round), f"round {round}: {source}")
            except Exception:
                logger.warning("round %d: %s failed", round, source, exc_info=True)
        return numbers


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
