"""FedAvg: the mean of the clients' models, weighted by their numbers of samples (McMahan et al., 2017).

    new = Σ nᵢ·wᵢ / Σ nᵢ

The sum runs in float64 with the integer nᵢ below 2²⁹, in the order of the calls, with one division at the end and one
rounding to the tensor's dtype, so equal updates give equal bits on every machine. Up to float32 each product is exact
(24 + 29 bits ≤ 53), so a fused multiply-add gives the same bits as two operations. For float64 tensors it would not:
there the product is rounded first. Integer and boolean tensors take the median (``medians``).
"""

import torch

from flserver.aggregation.strategies.medians import Medians
from flserver.aggregation.strategies.rounding import round_once
from flserver.aggregation.strategy import Strategy
from flserver.models.state import State, empty_state

CHUNK = 1 << 18  # elements converted to float64 at a time: 2 MiB, which stays in the cache


class FedAvg(Strategy):
    """The weighted mean, in memory that does not depend on the number of clients."""

    arithmetic = "exact sum"

    def __init__(self) -> None:
        self._dtypes: dict[str, torch.dtype] = {}
        self._shapes: dict[str, torch.Size] = {}
        self._sums: State = {}
        self._total = 0
        self._medians, self._holds = Medians(), False
        self._scratch = torch.empty(CHUNK, dtype=torch.float64)

    def begin(self, global_state: State) -> None:
        """See :meth:`Strategy.begin`. The sums' memory is kept as long as the layout stays."""
        self._total = 0
        self._medians.begin(global_state)
        dtypes = {name: tensor.dtype for name, tensor in global_state.items()}
        shapes = {name: tensor.shape for name, tensor in global_state.items()}
        if (dtypes, shapes) != (self._dtypes, self._shapes):
            self._dtypes, self._shapes = dtypes, shapes
            self._sums = {
                name: torch.empty(tensor.numel(), dtype=torch.float64)
                for name, tensor in global_state.items()
                if tensor.is_floating_point()
            }

    def add(self, update: State, n: int) -> None:
        """See :meth:`Strategy.add`. The update's memory is not needed any more afterwards, unless it ``holds``."""
        if self._total == 0:
            for total in self._sums.values():
                total.zero_()
        self._total += n
        for name, total in self._sums.items():
            self._add_product(total, update[name].reshape(-1), n)
        self._holds = self._medians.add(update, hold=self.may_hold)

    @property
    def holds(self) -> bool:
        """See :attr:`Strategy.holds`: of an update that differs in many integers these are looked at again."""
        return self._holds or super().holds

    def _add_product(self, total: torch.Tensor, flat: torch.Tensor, n: int) -> None:
        for start in range(0, flat.numel(), CHUNK):
            piece = flat[start : start + CHUNK]
            wide = self._scratch[: piece.numel()]
            wide.copy_(piece)
            if flat.dtype == torch.float64:
                wide.mul_(n)
                total[start : start + CHUNK].add_(wide)
            else:
                total[start : start + CHUNK].add_(wide, alpha=n)

    def finish(self) -> State:
        """See :meth:`Strategy.finish`. At least one update was added."""
        state = empty_state(self._dtypes, self._shapes)
        for name, total in self._sums.items():
            self._divide(total, state[name].view(-1))
        for name, median in self._medians.finish().items():
            state[name].copy_(median)
        return state

    def _divide(self, total: torch.Tensor, mean: torch.Tensor) -> None:
        for start in range(0, total.numel(), CHUNK):
            piece = total[start : start + CHUNK]
            quotient = torch.div(piece, self._total, out=self._scratch[: piece.numel()])
            mean[start : start + CHUNK] = round_once(quotient, mean.dtype)
