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

    ``order = "any"`` is opted into by a class whose result is the same bits whatever the order: each update is then
    decided, given to ``add`` and freed as it arrives. ``reserve`` and ``add`` are called from several threads at once,
    ``begin`` and ``finish`` never while one of those runs. With ``needs = "all"`` it changes nothing, nor for a
    subclass with an ``add`` of its own that does not say it again. A strategy that is a sum may have a ``subtract``.

    ``needs`` says how long the tensors given to ``add`` stay valid: ``"stream"`` until ``add`` returns, which keeps
    memory independent of the number of clients, ``"all"`` until ``finish`` returns. One that streams may ask for single
    updates to stay, with ``holds``, where whoever calls it set ``may_hold``. ``arithmetic`` names on record how it
    computes, where that may change from one version to the next: equal names, equal bits.

    ``coordinatewise = True`` is opted into by a class that makes each number of the new model of nothing but the
    numbers at its place, in the global model and in the updates, and of ``n``, in the same way however many lie beside
    it, and that keeps nothing for the next round. Ingest nodes then each make a range of the new model: there a model
    is flat tensors, under the names of those that lie in the range, and all calls are as above. Sorting and adding one
    update after another is such a way; ``torch.stack(updates).sum(dim=0)`` adds in an order that depends on the
    tensor's size. A subclass that changes how it computes says it again.
    """

    needs: ClassVar[Literal["stream", "all"]] = "stream"
    order: ClassVar[Literal["ascending", "any"]] = "ascending"
    coordinatewise: ClassVar[bool] = False
    arithmetic: ClassVar[str | None] = None
    may_hold = False
    scratch: Callable[[int], memoryview] = staticmethod(own_memory)
    """Gives so many bytes of zeros (1 or more), which stay valid; whoever calls the strategy may set it before the
    first ``begin``, to memory that is counted. Raises NoRoom where there is no place for them. May be called from any
    thread that is in a call of the strategy's."""

    @property
    def on_arrival(self) -> bool:
        """Whether updates may be added in any order and from several threads, as they arrive."""
        return self.order == "any" and self.needs == "stream" and self._goes_with("order", "add")

    @property
    def is_sum(self) -> bool:
        """Whether an update that was added can be taken back: there is a ``subtract`` that goes with ``add``."""
        return type(self).subtract is not Strategy.subtract and self._goes_with("subtract", "add")

    @property
    def by_range(self) -> bool:
        """Whether several of it may each make a range of the new model, of all updates' numbers there."""
        return self.coordinatewise and self._goes_with("coordinatewise", "begin", "add", "finish", "state")

    def _goes_with(self, name: str, *methods: str) -> bool:
        """Whether ``name`` was said by a class that knew these methods as they are called."""
        says, *does = (next(c for c in type(self).__mro__ if what in vars(c)) for what in (name, *methods))
        return all(issubclass(says, one) for one in does)

    @property
    def holds(self) -> bool:
        """Whether the tensors last given to ``add`` stay valid until ``finish`` returns; for a caller that set
        ``may_hold`` to look at after each ``add``."""
        return self.needs == "all"

    @abstractmethod
    def begin(self, global_state: State) -> None:
        """Start anew from the global model that was sent out (CPU tensors by name, not to be changed), and forget an
        attempt that was not finished."""

    def reserve(self, update: State, n: int) -> None:  # noqa: B027
        """Make sure of the room that ``add`` will take for this update and ``n``, before it is on record that it
        counts. Only called where updates are added on arrival; before ``finish`` each one that was reserved for is
        either added or ``unreserve`` is called, and the next ``begin`` forgets all.

        Raises TooDifferent where there is none: the update is then rejected.
        """

    def unreserve(self, update: State, n: int) -> None:  # noqa: B027
        """An update that was reserved for is not added after all."""

    @abstractmethod
    def add(self, update: State, n: int) -> None:
        """Take one client's tensors and its number of training samples, ``n``, from 1 to 2²⁹ − 1.

        The tensors have the names, shapes and dtypes of the global model and are finite; they need not be contiguous.
        """

    def subtract(self, update: State, n: int) -> None:
        """Take an update back that was added with ``n`` samples: what ``finish`` then makes has the same bits as if it
        had never been. Only called where the strategy ``is_sum``."""
        raise UsageError(f"{type(self).__name__} is no sum: no update can be taken back out of it")

    @property
    def splits(self) -> bool:
        """Whether a round's updates may be added to several of it, in different processes, and brought together."""
        return self.on_arrival and type(self).merge is not Strategy.merge and self._goes_with("merge", "add")

    @property
    def finishes_anywhere(self) -> bool:
        """Whether ``finish`` rests on nothing but what was added since ``begin``, and leaves nothing behind: then
        another one that has all of a round's updates may do it."""
        return False

    def partial(self) -> State:
        """What was added since ``begin``, as tensors that another one's ``merge`` takes. Only called where the strategy
        ``splits``."""
        raise UsageError(f"{type(self).__name__} gives no part of a round away")

    def merge(self, partial: State) -> None:
        """Take what ``partial`` gave of another one that began with the same model: what ``finish`` then makes has the
        same bits as if all of it had been added here. Only called where the strategy ``splits``."""
        raise UsageError(f"{type(self).__name__} takes no part of a round from elsewhere")

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
