"""Where the events of one connection go: on record, or into a sum.

Until it is known what a connection became, its events are on record only where a stranger may have rows now. Beyond
that they are held: a registration or an update puts them on record with its own, in their order; of a stranger they are
counted. They are held, too, while the recorder has no room for who does not go first, so that an honest trainer's
upload does not wait behind strangers.
"""

from flserver.events import ConnectionClosed, ConnectionOpened, Event, MessageReceived, MessageSent
from flserver.events.bus import Recorder
from flserver.events.words import HEADERS, OTHER, Purpose, StrangerReason
from flserver.network.strangers import Kind, Numbers, Place, Strangers


class Rows:
    """The events of one connection, from the first on."""

    def __init__(self, recorder: Recorder, strangers: Strangers) -> None:
        self._recorder, self._strangers = recorder, strangers
        self._held: list[Event] | None = None  # None where they go on record as they come
        self._host: str | None = None
        self._place: Place | None = None
        self._announced: Kind | None = None
        self._first = False
        self._begun = False  # whether it has rows

    def open(self, opened: ConnectionOpened) -> None:
        """The connection begins: :meth:`come_from` has to follow."""
        self._held = [opened]

    def emit(self, event: Event) -> None:
        """Something happened on the connection. Raises StoreError."""
        if self._held is None and self._place is not None and self._recorder.crowded:
            self._held = []  # it may still become an honest trainer's, and go first
        if self._held is None:
            self._recorder.emit(event, first=self._first)
        else:
            self._held.append(event)

    def come_from(self, host: str) -> None:
        """It is known where the connection comes from. Raises StoreError."""
        if self._host is None:
            self._host, self._place = host, self._strangers.take_place(host)
            if self._place is not None and not self._recorder.crowded:
                self._put_on_record()

    def keep(self, *, first: bool) -> None:
        """The connection becomes a registration or an update, on which a round may rest: that goes ``first``. Raises
        StoreError."""
        self._first = first
        if self._place is not None:
            self._strangers.give_back(self._place)
            self._place = None
        self._put_on_record()

    def make_durable(self, reason: StrangerReason, purpose: Purpose) -> None:
        """Before a stranger is answered: what it did is durable, in rows or as one of its kind. Raises StoreError."""
        if self._has_rows:
            self._put_on_record()
            self._recorder.flush()
        else:
            self._announced = self._count(reason, purpose, Numbers(connections=1))
            self._strangers.announce(self._announced)

    def close(self, closed: ConnectionClosed, reason: StrangerReason, host: str) -> None:
        """The connection, which came from ``host``, ended; ``reason`` is what a stranger is counted under.

        Raises StoreError.
        """
        if self._held is not None:
            self.come_from(host)
        # The thread that accepts does not wait for room: of who was not served it then counts.
        counted = reason == "not_served" and not self._begun and self._recorder.crowded
        if self._has_rows and not counted:
            self._put_on_record()
            self._recorder.emit(closed, first=self._first)
            return
        numbers = Numbers(bytes_in=closed.bytes_in, bytes_out=closed.bytes_out)
        if self._announced is None:
            numbers.connections = 1
        self._count(reason, closed.purpose, numbers)

    @property
    def _has_rows(self) -> bool:
        return self._held is None or self._place is not None

    def _put_on_record(self) -> None:
        held, self._held, self._begun = self._held or (), None, True
        for event in held:
            self._recorder.emit(event, first=self._first)

    def _count(self, reason: StrangerReason, purpose: Purpose, numbers: Numbers) -> Kind:
        """Count what is held, with these ``numbers`` of the connection, and hold it no longer. Returns its kind."""
        assert self._held is not None
        assert self._host is not None
        came = [event for event in self._held if isinstance(event, MessageReceived)]
        sent = [event for event in self._held if isinstance(event, MessageSent)]
        self._held = []
        numbers.messages, numbers.message_bytes = len(came), sum(message.bytes for message in came)
        numbers.answers = sum(answer.outcome == "ok" for answer in sent)
        numbers.failed_answers = len(sent) - numbers.answers
        before = self._announced
        if before is None:
            header = came[0].header if came else None
            header = header if header in HEADERS else OTHER
            outcome = came[0].outcome if came else None
        else:
            reason, header, outcome = before.reason, before.header, before.outcome
        kind = self._strangers.kind(self._host, reason, purpose, header, outcome)
        self._strangers.count(kind, numbers)
        return kind
