"""The interface of a strategy."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from flserver.errors import UsageError
from flserver.models.state import State


class Strategy(ABC):
    """How the updates of one round become the next global model.

    For every attempt the coordinator calls ``begin`` once, ``add`` once for each update that counts, in ascending order
    of the client ids as text, and, unless the attempt is aborted, ``finish``. All calls come from one thread. Whatever
    a strategy raises ends the run as failed.

    ``needs`` says how long the tensors given to ``add`` stay valid: ``"stream"`` until ``add`` returns, which keeps
    memory independent of the number of clients, ``"all"`` until ``finish`` returns. One that streams may ask for single
    updates to stay, with ``holds``, where whoever calls it set ``may_hold``. ``arithmetic`` names on record how it
    computes, where that may change from one version to the next: equal names, equal bits.
    """

    needs: ClassVar[Literal["stream", "all"]] = "stream"
    arithmetic: ClassVar[str | None] = None
    may_hold = False

    @property
    def holds(self) -> bool:
        """Whether the tensors last given to ``add`` stay valid until ``finish`` returns; for a caller that set
        ``may_hold`` to look at after each ``add``."""
        return self.needs == "all"

    @abstractmethod
    def begin(self, global_state: State) -> None:
        """Start anew from the global model that was sent out (CPU tensors by name, not to be changed), and forget an
        attempt that was not finished."""

    @abstractmethod
    def add(self, update: State, n: int) -> None:
        """Take one client's tensors and its number of training samples, ``n``, from 1 to 2²⁹ − 1.

        The tensors have the names, shapes and dtypes of the global model and are finite; they need not be contiguous.
        """

    @abstractmethod
    def finish(self) -> State:
        """The new global model: tensors of its own memory, with the names, shapes and dtypes of the old one."""

    def state(self) -> State:
        """The tensors of the strategy's own that the next round depends on, by name. They are kept in the round's
        checkpoint, beside the model."""
        return {}

    def load_state(self, state: State) -> None:
        """Take back what :meth:`state` returned when the checkpoint was written. Raises UsageError where it is not for
        this strategy."""
        if state:
            raise UsageError(f"{type(self).__name__} keeps no state, but the checkpoint holds {sorted(state)}")
