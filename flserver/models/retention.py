"""Which checkpoints stay, and which round is the best one. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MadeRound:
    """A committed round, as far as its checkpoint is concerned.

    ``checkpoint`` is the file's path below the checkpoint directory. ``loss`` (nats) and ``accuracy`` (0 to 1) are None
    where they were not measured, or not as a :func:`comparable` number.
    """

    round: int
    attempt: int
    checkpoint: str
    loss: float | None
    accuracy: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "MadeRound":
        """The round in a row of v1_rounds."""
        return cls(row["round"], row["attempt"], row["checkpoint"], row["loss"], row["accuracy"])


def comparable(value: float | None) -> float | None:
    """``value`` where it can be compared with others; NaN and the infinities are None, as SQL has them."""
    return value if value is not None and math.isfinite(value) else None


def best(rounds: Iterable[MadeRound]) -> MadeRound | None:
    """The round of the highest accuracy; of several, that of the lower loss, then the newest. Where no round has an
    accuracy, that of the lowest loss; None where none has either."""
    measured = [made for made in rounds if made.accuracy is not None or made.loss is not None]
    return max(measured, key=_quality, default=None)


def _quality(made: MadeRound) -> tuple[float, float, int]:
    """Greater is better. What was not measured is worse than anything that was."""
    accuracy = made.accuracy if made.accuracy is not None else float("-inf")
    return accuracy, -made.loss if made.loss is not None else float("-inf"), made.round


def going(rounds: Sequence[MadeRound], keep: int) -> list[MadeRound]:
    """Those of ``rounds`` whose checkpoint is to be pruned: all but the newest ``keep`` and the best one.

    ``rounds`` are in ascending order. With ``keep`` 0 all stay.
    """
    if keep == 0:
        return []
    staying = {*rounds[-keep:], best(rounds)}
    return [made for made in rounds if made not in staying]
