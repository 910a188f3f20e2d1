"""The door between sessions and a run's rounds: what a session uses of them, wherever it runs.

In the process that makes the rounds these are ``exchange.Exchange`` and ``folding.Folding`` themselves; on an ingest
node they are what asks that process (``ingest``). Sessions do not know which.
"""

from collections.abc import Callable
from typing import Protocol

from flserver.events.words import LeftReason
from flserver.identity.peer import Peer
from flserver.identity.rules import Share
from flserver.rounds.broadcast import Ring, Send, Ticket
from flserver.rounds.endings import Farewell
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Registration, SentModel, Verdict
from flserver.rounds.updates import Submission


class Door(Protocol):
    """Registrations, tickets, and who may upload: ``exchange.Exchange`` says what each is."""

    @property
    def model(self) -> CurrentModel:
        """The model that updates are held against."""

    def accepted(self) -> float:
        """A connection was accepted: when, in numbers that only this door compares; ``ended`` has to follow."""

    def ended(self, accepted_at: float) -> None:
        """The connection that was accepted then is over."""

    def register(self, client_id: str, data_size: int, peer: Peer, holds: SentModel | None = ...) -> Registration: ...

    def confirm_registration(self, registration: Registration, ring: Ring, send: Send = ...) -> None: ...

    def leave(self, registration: Registration, reason: LeftReason = ...) -> None: ...

    def next_ticket(self, registration: Registration) -> Ticket | Farewell | None: ...

    def expect_upload(self, peer: Peer) -> Share: ...

    def sender(self, client_id: str | None, peer: Peer) -> tuple[str | None, tuple[str, ...]]: ...

    def not_asked(self, peer: Peer, accepted_at: float) -> str | None: ...

    def registered_peers(self) -> list[tuple[Peer, bool]]: ...

    def check_upload(self, client_id: str, peer: Peer) -> None: ...


class Awaited(Protocol):
    """A decision that somebody else makes."""

    def then(self, call: Callable[[], None]) -> None:
        """Call that once it is there, on whichever thread: it is not to wait for anything."""


class Folds(Protocol):
    """What takes updates: ``folding.Folding`` says what each is."""

    @property
    def asks(self) -> bool:
        """Whether a decision is waited for: somebody else has to be asked."""

    @property
    def on_arrival(self) -> bool: ...

    def came(self, client_id: str) -> None:
        """An upload of that client is whole, whatever becomes of it."""

    def ask(self, submission: Submission) -> Awaited | None:
        """Ask ahead for what ``offer`` decides, which has to follow: it waits for nobody then. None where nobody is
        asked."""

    def is_quick(self, submission: Submission) -> bool:
        """Whether what follows takes little where it was asked ahead, and the decision is there."""

    def offer(self, submission: Submission) -> Verdict: ...

    def withdraw(self, submission: Submission, verdict: Verdict) -> None: ...

    def confirm(self, submission: Submission, verdict: Verdict) -> None: ...
