"""Who comes and takes no part: so many a minute have rows of their own, beyond that they are summed.

A *stranger* is a connection that became neither a registration nor an update. An address prefix (IPv4 /24, IPv6 /64)
has rows for ``per_minute`` of them, all prefixes together for ten times as many. The others of a minute are counted by
kind, and each kind is one event when the minute is over: what anybody sends does not grow the record for ever.
"""

import ipaddress
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache

from flserver.clock import utc_now, utc_timestamp
from flserver.errors import (
    ConnectionLost,
    FrameRefused,
    FrameTooLong,
    HandshakeRefused,
    IdentityRefused,
    MessageRefused,
    NoRoom,
    PeerError,
    PickleRefused,
    RegistrationRefused,
    StoreError,
    TensorsTooLarge,
)
from flserver.events import StrangersSummed
from flserver.events.bus import Recorder
from flserver.events.words import Outcome, Purpose, StrangerReason
from flserver.frozen import frozen
from flserver.identity.peer import MOST_ADDRESSES

PREFIX_BITS = {4: 24, 6: 64}
IN_ALL = 10  # times what one prefix has: of rows a minute for strangers from everywhere
MOST_KINDS = 1000  # told apart in a minute; then prefixes that are new are counted together
ELSEWHERE = "elsewhere"
MINUTE = 60.0  # seconds


_REASONS: Mapping[type[PeerError], StrangerReason] = {
    FrameTooLong: "size",
    NoRoom: "size",
    TensorsTooLarge: "size",
    FrameRefused: "frame",
    HandshakeRefused: "handshake",
    MessageRefused: "message",
    PickleRefused: "pickle",
    IdentityRefused: "identity",
    RegistrationRefused: "registration",
    PeerError: "not_served",
}  # the first that fits


def reason_of(error: PeerError, *, spoke: bool) -> StrangerReason:
    """What a stranger is counted under who was refused, or went away, with ``error``."""
    if isinstance(error, ConnectionLost):
        return "broken_off" if spoke else "silent"
    return next(reason for kind, reason in _REASONS.items() if isinstance(error, kind))


@dataclass(frozen=True)
class Kind:
    """What is counted together. ``header`` is one that ``/metrics`` tells apart; ``outcome`` is None where no message
    came."""

    minute: str
    prefix: str
    reason: StrangerReason
    purpose: Purpose
    header: str
    outcome: Outcome | None


@dataclass
class Numbers:
    """How many connections, the messages in and the answers out on them, and bytes: of the messages that came in, and
    of all that went each way."""

    connections: int = 0
    messages: int = 0
    message_bytes: int = 0
    answers: int = 0
    failed_answers: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, other: "Numbers") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@frozen()
class Place:
    """A stranger's leave to have rows of its own."""

    minute: str
    prefix: str


@lru_cache(MOST_ADDRESSES)
def prefix_of(host: str) -> str:
    """The network of an address as text; ``elsewhere`` for what is no IP address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ELSEWHERE
    return str(ipaddress.ip_network((address, PREFIX_BITS[address.version]), strict=False))


def minute_of(now: str) -> str:
    """The beginning of the minute that a time, as the clock writes it, is in."""
    return f"{now[:16]}:00.000000Z"


class Strangers:
    """The strangers of a server process. What it counts is on record at the latest when ``close`` returns."""

    def __init__(self, recorder: Recorder, per_minute: int) -> None:
        self._recorder, self._per_minute = recorder, per_minute
        self._lock = threading.Lock()  # guards the five below; never held over emit
        self._minute = ""
        self._rows: Counter[str] = Counter()  # by prefix, of that minute
        self._in_all = 0
        self._sums: dict[Kind, Numbers] = {}
        self._announced: dict[Kind, threading.Event] = {}  # kinds of that minute; set when it is on record
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="strangers")

    def start(self) -> None:
        """Put on record what was counted, at each minute's end."""
        self._thread.start()

    def close(self) -> None:
        """Nobody comes any more: put the rest on record, and end the thread."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.put_on_record(all_of_it=True)

    # --- rows --------------------------------------------------------------------------------------------------------

    def take_place(self, host: str) -> Place | None:
        """Leave for a connection from ``host`` to have rows, though it may turn out a stranger; None beyond the limit.

        It is given back where the connection does not turn out one.
        """
        prefix = prefix_of(host)
        with self._lock:
            self._turn(utc_now())
            if self._rows[prefix] >= self._per_minute or self._in_all >= IN_ALL * self._per_minute:
                return None
            self._rows[prefix] += 1
            self._in_all += 1
            return Place(self._minute, prefix)

    def give_back(self, place: Place) -> None:
        """The connection became a registration or an update: another may have its place."""
        with self._lock:
            if place.minute == self._minute:
                self._rows[place.prefix] -= 1
                self._in_all -= 1

    def _turn(self, now: str) -> None:
        """Begin another minute where it is one."""
        if (minute := minute_of(now)) != self._minute:
            self._minute = minute
            self._rows.clear()
            self._in_all = 0
            self._announced.clear()

    # --- sums --------------------------------------------------------------------------------------------------------

    def kind(self, host: str, reason: StrangerReason, purpose: Purpose, header: str, outcome: Outcome | None) -> Kind:
        """The kind that a connection from ``host`` is of now."""
        prefix = prefix_of(host)
        with self._lock:
            self._turn(utc_now())
            known = len(self._sums) < MOST_KINDS or any(kind.prefix == prefix for kind in self._sums)
            return Kind(self._minute, prefix if known else ELSEWHERE, reason, purpose, header, outcome)

    def count(self, kind: Kind, numbers: Numbers) -> None:
        """Count what a stranger was."""
        with self._lock:
            self._sums.setdefault(kind, Numbers()).add(numbers)

    def announce(self, kind: Kind) -> None:
        """Wait until it is durable that strangers of this kind come in this minute: the first of them is on record
        then, and the others are, with their number, when the minute is over. Raises StoreError."""
        with self._lock:
            done = self._announced.get(kind)
            if done is None:
                mine = self._announced[kind] = threading.Event()
                numbers = self._sums.pop(kind, Numbers())  # none where the minute's end has taken them just now
        if done is None:
            try:
                self._emit({kind: numbers})
            finally:
                mine.set()
        else:
            done.wait()
        self._recorder.flush()

    def put_on_record(self, *, all_of_it: bool = False) -> None:
        """Emit what was counted in the minutes that are over, or in all."""
        with self._lock:
            minute = minute_of(utc_now())
            due = {kind: numbers for kind, numbers in self._sums.items() if all_of_it or kind.minute != minute}
            for kind in due:
                del self._sums[kind]
        with suppress(StoreError):  # the server is stopping because of it
            self._emit(due)

    def _emit(self, sums: dict[Kind, Numbers]) -> None:
        for kind, numbers in sums.items():
            self._recorder.emit(StrangersSummed(**vars(kind), **vars(numbers)), first=False)

    def _run(self) -> None:
        while not self._over.wait(MINUTE - utc_timestamp(utc_now()) % MINUTE):
            self.put_on_record()
