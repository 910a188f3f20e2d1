"""The registrations of one node, and the models that it sends them."""

import threading
from collections.abc import Callable

from flserver.clock import monotonic
from flserver.errors import ConnectionLost
from flserver.events.words import LeftReason
from flserver.identity.peer import Peer
from flserver.ingest import told as t
from flserver.ingest.outbox import Outbox
from flserver.rounds.endings import Farewell
from flserver.rounds.exchange import Exchange
from flserver.rounds.seats import Registration, SentModel


class Seated:
    """For many threads. ``know`` is called with a client of which it is to be said anew who registered it."""

    def __init__(self, exchange: Exchange, outbox: Outbox, know: Callable[[str], None]) -> None:
        self._exchange, self._outbox, self._know = exchange, outbox, know
        self._lock = threading.Lock()  # guards all below; the exchange's is never taken inside it
        self._there: set[Registration] = set()
        self._over = False
        self._numbers = 0
        self._sent: dict[int, SentModel] = {}
        self._number_of: dict[Registration, int] = {}  # under which a registration's newest model is sent

    def register(self, client_id: str, data_size: int, peer: Peer, holds: SentModel | None = None) -> Registration:
        """Reserve a registration. Raises as ``Exchange.register``."""
        registration = self._exchange.register(client_id, data_size, peer, holds)
        with self._lock:
            self._there.add(registration)
            over = self._over
        self._know(client_id)
        if over:
            self.leave(registration, "node")
        return registration

    def confirm(self, registration: Registration) -> None:
        """It is on record: it takes part."""
        with self._lock:
            if registration not in self._there:
                return

        def ring() -> None:
            self._ring(registration, handed_over=False)

        def send() -> bool:
            return self._ring(registration, handed_over=True)

        self._exchange.confirm_registration(registration, ring, send)
        ring()  # what came before it had a bell

    def leave(self, registration: Registration, reason: LeftReason) -> None:
        """Its connection has ended."""
        with self._lock:
            if registration not in self._there:
                return
            self._there.remove(registration)
            self._sent.pop(self._number_of.pop(registration, 0), None)
        self._exchange.leave(registration, reason)
        self._know(registration.client_id)

    def leave_all(self) -> None:
        """The node is gone."""
        with self._lock:
            self._over, left = True, list(self._there)
        for registration in left:
            self.leave(registration, "node")

    def _ring(self, registration: Registration, *, handed_over: bool) -> bool:
        """Tell the node what there is for a registration, if there is anything; called by the exchange."""
        found = self._exchange.next_model(registration)
        if isinstance(found, Farewell):
            self._outbox.put(t.Goodbye(registration, found.reason))
        elif found is not None:
            with self._lock:
                if registration not in self._there:  # it has left meanwhile, which the exchange is about to hear
                    return True
                self._numbers += 1
                number = self._numbers
                self._sent.pop(self._number_of.get(registration, 0), None)
                self._number_of[registration], self._sent[number] = number, found
            if handed_over:
                found.hand_over(monotonic())
            self._outbox.put(t.Ticket(registration, found.round, found.attempt, number, handed_over))
        return found is not None

    def hand_over(self, number: int) -> None:
        """The last bytes of that model are about to go. Raises ConnectionLost where nobody has it any more."""
        with self._lock:
            sent = self._sent.get(number)
        if sent is None:
            raise ConnectionLost("its registration is over")
        sent.hand_over(monotonic())

    def take_back(self, number: int) -> None:
        """They did not go after all."""
        with self._lock:
            sent = self._sent.get(number)
        if sent is not None:
            sent.take_back()

    def fully_sent(self, number: int) -> None:
        """All of it has gone."""
        with self._lock:
            sent = self._sent.get(number)
        if sent is not None:
            sent.sent(monotonic())
