"""The global model, as far as it was committed."""

from dataclasses import dataclass

from flserver.aggregation import State


@dataclass(frozen=True)
class CurrentModel:
    """The last committed round's model; ``digest`` is that of its file. Before round 0 is committed: -1, and None."""

    round: int
    state: State
    digest: str | None
