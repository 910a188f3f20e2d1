"""What the writer writes with: one connection of whichever database, from its opening to its end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from flserver.events import Event
from flserver.store.appending import Head
from flserver.store.database import Pause
from flserver.store.derive.statements import Rows

Appends = Callable[[Rows, Head], tuple[Head, Sequence[Event]]]
"""What appends events behind a head, in the transaction of the rows; it gives the new head, and all that it wrote."""


class Recording(ABC):
    """One thread at a time uses it: whoever opens it, then the writer's."""

    @abstractmethod
    def open(self, pause: Pause) -> Head:
        """Open the database, which is at the newest schema; where the chain stands. ``pause`` is how to wait.

        Raises StoreError.
        """

    @abstractmethod
    def commit(self, append: Appends) -> tuple[Head, Sequence[Event]]:
        """What ``append`` gives, once it is durable; it may be called again where a transaction was not. Whatever is
        raised is the end."""

    @property
    def beat(self) -> float | None:
        """Seconds without a commit after which to :meth:`keep`; None: there is no need."""
        return None

    def keep(self) -> None:  # noqa: B027
        """See to it that it is still this one's to write. Raises StoreError where it is another's."""

    @abstractmethod
    def leave(self) -> None:
        """Close the connection, as tidily as can be: all is durable."""

    @abstractmethod
    def leave_as_it_is(self) -> None:
        """Close the connection after something failed, and write nothing more."""
