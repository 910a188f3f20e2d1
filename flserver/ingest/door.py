"""The node's side of the door: what sessions ask of a run's rounds is asked of the coordinator's desk.

Who registered which client is known here too, as the desk tells it: what follows from that alone is answered without
asking. A yes may be a moment old, and the decision on an upload is the desk's all the same; a no is asked for again.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from flserver.clock import monotonic
from flserver.errors import IdentityRefused, Refused, RegistrationRefused, StoreError
from flserver.events.words import LeftReason
from flserver.identity.peer import Peer
from flserver.identity.registered import Registered as RegisteredPeers
from flserver.identity.rules import Identity, Share
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.asking import Asking
from flserver.rounds.broadcast import Broadcast, Ring, Send, Ticket
from flserver.rounds.endings import Farewell
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Registration, SentModel


class NodeSent(SentModel):
    """A model that a node sends, under the desk's ``number``: its hand-over is acknowledged before its last bytes go,
    unless it was said with the ticket that they may."""

    def __init__(self, asking: Asking, ticket: t.Ticket, digest: str | None) -> None:
        super().__init__(ticket.round, ticket.attempt, digest=digest)
        self._asking, self._number, self._may = asking, ticket.sent, ticket.handed_over

    def hand_over(self, now: float) -> None:
        if not self._may:
            self._asking.ask(q.HandOver(self._number), q.Done)
            self._may = True
        super().hand_over(monotonic())

    def take_back(self) -> None:
        self._may = False
        self._asking.tell(t.TakenBack(self._number))
        super().take_back()

    def sent(self, now: float) -> None:
        self._asking.tell(t.FullySent(self._number))
        super().sent(now)


class NodeDoor:
    """Implements ``rounds.door.Door``. ``model`` and ``broadcast`` are the running attempt's."""

    def __init__(self, asking: Asking, identity: Identity) -> None:
        self._asking, self._identity = asking, identity
        self._connections = count(1)
        self._lock = threading.Lock()  # guards all below; never held while something is asked
        self._registered = RegisteredPeers()
        self._there: set[str] = set()
        self._bells: dict[Registration, tuple[Ring, Send]] = {}
        self._tickets: dict[Registration, t.Ticket | t.Goodbye] = {}
        self._attempt: tuple[int, int] | None = None
        self._broadcast: Broadcast | None = None
        self.model = CurrentModel(-1, {}, None)
        self._sending = threading.local()  # ``at_once``: whether this thread sends at once what it takes

    # --- what the desk tells -----------------------------------------------------------------------------------------

    def know(self, known: t.Known) -> None:
        """Who registered a client, and whether it is there."""
        with self._lock:
            if known.peer is None:
                self._registered.pop(known.client_id, None)
            else:
                self._registered[known.client_id] = known.peer
            (self._there.add if known.there else self._there.discard)(known.client_id)

    def begin(self, began: t.Began, model: CurrentModel, broadcast: Broadcast) -> list[Ring]:
        """An attempt runs, from that model; what was to be sent for another is not any more. Where it comes late,
        tickets have come already: how their sessions are told."""
        with self._lock:
            self._attempt, self._broadcast, self.model = (began.round, began.attempt), broadcast, model
            for registration, ticket in list(self._tickets.items()):
                if isinstance(ticket, t.Ticket) and (ticket.round, ticket.attempt) != self._attempt:
                    del self._tickets[registration]
            return [self._bells[registration][0] for registration in self._tickets if registration in self._bells]

    def bring(self, ticket: t.Ticket | t.Goodbye) -> tuple[Ring, Send] | None:
        """There is something for a registration; how its session is told, where it is still there."""
        with self._lock:
            bell = self._bells.get(ticket.registration)
            if bell is not None:
                self._tickets[ticket.registration] = ticket
            return bell

    def ring_all(self) -> None:
        """Wake every session that waits."""
        with self._lock:
            bells = list(self._bells.values())
        for ring, _ in bells:
            ring()

    @contextlib.contextmanager
    def at_once(self, ticket: t.Ticket) -> Iterator[None]:
        """A session's model is sent at once within, where it can be: only then may the last bytes go unasked. Where its
        ticket still waits behind it, they wait for the desk, which hears of that now: an upload that comes before they
        go does not answer them."""
        self._sending.at_once = True
        try:
            yield
        finally:
            self._sending.at_once = False
            with self._lock:
                if self._tickets.get(ticket.registration) is ticket:
                    self._tickets[ticket.registration] = self._taken_back(ticket)

    def _taken_back(self, ticket: t.Ticket) -> t.Ticket:
        if ticket.handed_over:
            self._asking.tell(t.TakenBack(ticket.sent))
        return replace(ticket, handed_over=False)

    # --- for sessions ------------------------------------------------------------------------------------------------

    def accepted(self) -> float:
        """The number of a connection, which the desk hears of before anything is read of it: what it was accepted
        before and after is what the desk heard before and after."""
        number = next(self._connections)
        self._asking.tell(t.Accepted(number))
        return number

    def ended(self, accepted_at: float) -> None:
        self._asking.tell(t.Ended(int(accepted_at)))

    def register(self, client_id: str, data_size: int, peer: Peer, holds: SentModel | None = None) -> Registration:
        held = None if holds is None else q.Holds(holds.round, holds.attempt, holds.digest)
        return self._asking.ask(q.Register(client_id, data_size, peer, held), q.Registered).registration

    def confirm_registration(self, registration: Registration, ring: Ring, send: Send = lambda: False) -> None:
        with self._lock:
            self._bells[registration] = ring, send
        self._asking.tell(t.OnRecord(registration))

    def leave(self, registration: Registration, reason: LeftReason = "closed") -> None:
        with self._lock:
            self._bells.pop(registration, None)
            self._tickets.pop(registration, None)
        self._asking.tell(t.Left(registration, reason))

    def next_ticket(self, registration: Registration) -> Ticket | Farewell | None:
        with self._lock:
            ticket = self._tickets.get(registration)
            if isinstance(ticket, t.Goodbye):
                return Farewell(ticket.reason)
            if ticket is None or self._broadcast is None or (ticket.round, ticket.attempt) != self._attempt:
                return None  # or its attempt has not begun here: then the bell rings again
            del self._tickets[registration]
            if not getattr(self._sending, "at_once", False):
                ticket = self._taken_back(ticket)
            self._broadcast.acquire()
            return Ticket(NodeSent(self._asking, ticket, self.model.digest), self._broadcast)

    def expect_upload(self, peer: Peer) -> Share:
        try:
            with self._lock:
                return self._identity.expect_upload(peer, self._registered)
        except IdentityRefused:
            expected = self._asking.ask(q.ExpectUpload(peer), q.Expected)
            return Share(expected.owner, expected.clients)

    def sender(self, client_id: str | None, peer: Peer) -> tuple[str | None, tuple[str, ...]]:
        try:
            sent_by = self._asking.ask(q.Sender(client_id, peer), q.SentBy)
        except StoreError:  # nobody can be asked any more
            with self._lock:
                return self._identity.sender(client_id, peer, self._registered), ()
        return sent_by.client_id, sent_by.could_be

    def not_asked(self, peer: Peer, accepted_at: float) -> str | None:
        with self._lock:
            sender = self._identity.sender(None, peer, self._registered)
        if sender is None:
            return None  # it is not certain whose it is: then it is read
        try:
            return self._asking.ask(q.NotAsked(peer, int(accepted_at)), q.SentBy).client_id
        except StoreError:
            return None  # it is read all the same: whoever goes on with the run is told that it came whole

    def registered_peers(self) -> list[tuple[Peer, bool]]:
        with self._lock:
            return [(peer, client_id in self._there) for client_id, peer in self._registered.items()]

    def check_upload(self, client_id: str, peer: Peer) -> None:
        try:
            with self._lock:
                if client_id not in self._registered:
                    raise RegistrationRefused(f"client {client_id} has not registered here")
                self._identity.check_upload(client_id, peer, self._registered[client_id])
        except Refused:
            self._asking.ask(q.CheckUpload(client_id, peer), q.Done)
