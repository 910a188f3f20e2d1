"""The global model, as far as it was committed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flserver.aggregation.steps import Step
    from flserver.models.state import State


@dataclass(frozen=True)
class CurrentModel:
    """The last committed round's model, empty while it is made; ``digest`` is its file's. Before round 0: -1, None.

    ``step`` is how it came of the round before, whose model it keeps in memory; None where there is none, or it is not
    known.
    """

    round: int
    state: "State"
    digest: str | None
    step: "Step | None" = None
