"""The interface of a strategy."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from flserver.errors import UsageError
from flserver.models.state import State


class Strategy(ABC):
    """How the updates of one round become the next global model.

    For every attempt the coordinator calls ``begin`` once, ``add`` once for each update that counts, in ascending order
    of the client ids as text, and, unless the attempt is aborted, ``finish``. All calls come from one thread.

    ``needs`` says how long the tensors given to ``add`` stay valid: ``"stream"`` until ``add`` returns, which keeps
    memory independent of the number of clients, ``"all"`` until ``finish`` returns.
    """

    needs: ClassVar[Literal["stream", "all"]] = "stream"

    @abstractmethod
    def begin(self, global_state: State) -> None:
        """Start anew from the global model that was sent out, forgetting an unfinished attempt."""

    @abstractmethod
    def add(self, update: State, n: int) -> None:
        """Take one client's tensors (layout of the global model, all finite) and its number of training samples."""

    @abstractmethod
    def finish(self) -> State:
        """The new global model: fresh tensors, layout and dtypes of the old one."""

    def state(self) -> State:
        """Tensors of its own that the next round depends on; they are kept in the same checkpoint."""
        return {}

    def load_state(self, state: State) -> None:
        """Take back what :meth:`state` returned when the checkpoint was written."""
        if state:
            raise UsageError(f"{type(self).__name__} keeps no state, but the checkpoint holds {sorted(state)}")
