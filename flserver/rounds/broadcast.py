"""The bytes of a round's <MODEL>, written once and sent by every session.

A template of the pickled message is made at start; each round overwrites the tensors' payloads in it. A slow client may
still be reading last round's bytes, so a buffer is used again only when nobody sends from it.
"""

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import blake3

from flserver.frozen import frozen
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Attempt, SentModel
from flserver.wire.template import Template

if TYPE_CHECKING:
    from flserver.models.state import State

Ring: TypeAlias = Callable[[], None]
Send: TypeAlias = Callable[[], bool]
"""What a session is told by that there may be a ticket, and what sends it at once where that takes no waiting."""

logger = logging.getLogger(__name__)

MOST_BUFFERS = 4
SMALL = 256 * 1024  # bytes: of a longer body a socket's buffer seldom takes all at once


def call(ring: Ring, send: Send, *, small: bool) -> None:
    """Have what there is for a session sent: a ``small`` model here and now as far as that goes, else by the session.
    A defect of ours in one session costs the others nothing."""
    sent = False
    if small:
        try:
            sent = send()
        except Exception:
            logger.exception("a model could not be sent at once")
    if not sent:
        ring()


class Published(Protocol):
    """A model that registrations may be sent, here or by nodes that have its bytes."""

    @property
    def small(self) -> bool:
        """Whether a socket may take all of it at once."""


class Broadcasts(Protocol):
    """What makes ready what registrations are sent. For one thread."""

    def render(self, state: "State") -> Published:
        """The model as it is sent: not to be seen before it is published."""

    def announce(self, attempt: Attempt, model: CurrentModel) -> None:
        """An attempt begins from ``model``, which was rendered: before anybody is sent it."""


class Broadcast:
    """One model's body. Sessions ``acquire`` it before and ``release`` it after sending; where it is ``revoked``, they
    stop sending it."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._lock = threading.Lock()  # guards _users
        self._users = 0
        self.revoked = False
        self.digest = ""

    @property
    def body(self) -> memoryview:
        """The pickled message, length excluded."""
        return memoryview(self._template.buffer)

    @property
    def small(self) -> bool:
        """Whether a socket may take all of it at once."""
        return len(self._template.buffer) <= SMALL

    @property
    def idle(self) -> bool:
        """Whether nobody is sending it."""
        return self._users == 0

    def acquire(self) -> None:
        """Somebody begins to send it; follow with ``release``."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Somebody has sent it, or failed to."""
        with self._lock:
            self._users -= 1

    def copy(self) -> "Broadcast":
        """Another buffer for the same kind of message."""
        return Broadcast(self._template.copy())

    def write(self, state: "State") -> None:
        """Overwrite the payloads; nobody may be sending."""
        from flserver.models.state import write_state  # torch is not there yet when trainers register

        write_state(self._template.module, state)
        self.digest = "blake3:" + blake3.blake3(self._template.buffer).hexdigest()


@frozen()
class Ticket:
    """A model to be sent to one registration. Release the broadcast when it is sent or failed."""

    sent: SentModel
    broadcast: Broadcast


class BroadcastBuffers:
    """Two buffers in turn, and up to ``MOST_BUFFERS`` while slow clients hold the old ones.

    Where those do not do, the oldest is taken away from whoever is still reading it: models that nobody waits for any
    more must not fill the memory, a round's worth at a time.
    """

    def __init__(self, template: Template) -> None:
        self._buffers = [Broadcast(template)]
        self._current: Broadcast | None = None
        self._rendered: State | None = None  # what the current one was made of

    def announce(self, attempt: Attempt, model: CurrentModel) -> None:
        """Who sends it is told by its bell."""

    def render(self, state: "State") -> Broadcast:
        """The body for ``state``: the last one where it was made of the same, else one in a buffer that is not in use.

        For one thread.
        """
        if self._current is not None and self._rendered is state:
            return self._current
        current = self._current
        free = [b for b in self._buffers if b.idle and not b.revoked and b is not current]
        chosen = free[0] if free else self._buffers[-1].copy()
        old = [b for b in self._buffers if b not in (chosen, current) and not b.idle]
        for buffer in old[: max(0, len(old) + 2 - MOST_BUFFERS)]:
            buffer.revoked = True
        # From the oldest on, so that those at the front are the ones to take away.
        self._buffers = [*old, *([current] if current is not None else []), chosen]
        chosen.write(state)
        self._current, self._rendered = chosen, state
        return chosen
