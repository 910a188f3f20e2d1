"""The interface of a strategy."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from flserver.aggregation.parts import own_memory
from flserver.errors import UsageError
from flserver.models.state import State


class Strategy(ABC):
    """How the updates of one round become the next global model.

    For every attempt ``begin`` is called once, ``add`` once for each update that counts, in ascending order of the
    client ids as text, and, unless the attempt is aborted, ``finish``. All calls come from one thread. Whatever a
    strategy raises ends the run as failed.

    ``order`` is what a class opts out of that with: of one with ``"any"`` the result has the same bits whatever the
    order of the calls of ``add``, and these may come from several threads at once. One with an ``ExactSum`` can.

    ``needs`` says how long the tensors given to ``add`` stay valid: ``"stream"`` until ``add`` returns, which keeps
    memory independent of the number of clients, ``"all"`` until ``finish`` returns. One that streams may ask for single
    updates to stay, with ``holds``, where whoever calls it set ``may_hold``.
    """

    needs: ClassVar[Literal["stream", "all"]] = "stream"
    order: ClassVar[Literal["ascending", "any"]] = "ascending"
    may_hold = False
    scratch: Callable[[int], memoryview] = staticmethod(own_memory)
    """Gives so many zeroed bytes to work in, which stay. Who has a budget of memory sets it before ``begin``, and it
    raises NoRoom where there is no place. May be called from any thread that is in a call of the strategy's."""

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

    def reserve(self, update: State) -> None:  # noqa: B027 — most need nothing
        """Make sure of the room that ``add`` will need for what is kept of this update: called before it is decided
        that it counts. Raises TooDifferent where there is none. ``add`` with this dict follows, or ``unreserve``."""

    def unreserve(self, update: State) -> None:  # noqa: B027
        """An update that was reserved for does not count."""

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
