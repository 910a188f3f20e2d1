"""Where sessions and the coordinator meet: one lock, one condition, and the state that both sides change.

Sessions call in from their own threads: ``register``, ``admit`` and ``leave`` for a registration, ``next_ticket`` for
the next model to send, ``offer`` and ``recorded`` for an update. The rules are those of ``rounds.Rounds``; nothing here
waits, emits or computes while the lock is held.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from flserver.aggregation import State
from flserver.clock import monotonic
from flserver.events.words import LeftReason
from flserver.identity.peer import Peer
from flserver.identity.rules import Share
from flserver.rounds import Attempt, Registration, Rounds, Seat, SentModel, Verdict
from flserver.rounds.broadcast import Broadcast
from flserver.wire.messages import Measurement


@dataclass(frozen=True)
class Ticket:
    """A model to be sent to one registration. Release the broadcast when it is sent or failed."""

    round: int
    attempt: int
    sent: SentModel
    broadcast: Broadcast


@dataclass(frozen=True)
class Farewell:
    """The run is over, for all or for this one: say <FINISHED> and close. ``reason``: finished, stopped, or other."""

    reason: LeftReason


@dataclass(eq=False)
class Submission:
    """A complete, decoded upload. ``release`` gives its memory back; nobody reads ``tensors`` after it.

    ``accepted_at`` (monotonic) is when its connection was accepted; ``digest`` is that of its tensors.
    """

    update_id: int
    client_id: str
    peer: Peer
    accepted_at: float
    tensors: State
    digest: str
    rejection: str | None
    metrics: tuple[Measurement, ...]
    release: Callable[[], None]


@dataclass
class Updates:
    """One attempt's updates that count: those that wait for their turn, and those that were taken to be folded."""

    waiting: dict[str, Submission] = field(default_factory=dict)
    taken: dict[str, Submission] = field(default_factory=dict)

    def take(self, seat: Seat) -> Submission | None:
        """The seat's waiting update, if there is one."""
        submission = self.waiting.pop(seat.client_id, None)
        if submission is not None:
            self.taken[seat.client_id] = submission
        return submission

    def release(self) -> None:
        for submission in (*self.waiting.values(), *self.taken.values()):
            submission.release()


class Exchange:
    """The state of the run that more than one thread changes.

    ``changed`` guards everything here. The coordinator holds it to look at ``rounds`` and ``updates``, and waits on it.
    """

    def __init__(self, rounds: Rounds, global_state: State) -> None:
        self.changed = threading.Condition()
        self.rounds = rounds
        self.updates = Updates()
        self.stopping: str | None = None
        # Of the last committed round. Replaced as a whole and never changed in place: read without the lock.
        self.global_state = global_state
        self._broadcast: Broadcast | None = None
        self._bells: dict[Registration, Callable[[], None]] = {}
        self._farewell: Farewell | None = None

    # --- for the owner -----------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Ask the coordinator to abort the running attempt and end the run. Does nothing when it has ended."""
        with self.changed:
            self.stopping = self.stopping or reason
            self.changed.notify_all()

    def roster_changed(self) -> None:
        """The roster was read again: who is left out goes, and the join window may be over."""
        with self.changed:
            bells = list(self._bells.values())
            self.changed.notify_all()
        for ring in bells:
            ring()

    # --- for sessions ------------------------------------------------------------------------------------------------

    def register(self, client_id: str, data_size: int, peer: Peer) -> Registration:
        """Reserve a registration; raises RegistrationRefused or IdentityRefused. Follow with ``admit`` once it is on
        record."""
        with self.changed:
            registration = self.rounds.register(client_id, data_size, peer, monotonic())
            self.changed.notify_all()
            return registration

    def admit(self, registration: Registration, ring: Callable[[], None]) -> None:
        """Let a recorded registration take part. ``ring`` is called when ``next_ticket`` may have something new."""
        with self.changed:
            self.rounds.admit(registration)
            self._bells[registration] = ring
            self.changed.notify_all()

    def leave(self, registration: Registration) -> None:
        """The registration's connection has ended."""
        with self.changed:
            self._bells.pop(registration, None)
            self.rounds.leave(registration)
            self.changed.notify_all()

    def next_ticket(self, registration: Registration) -> Ticket | Farewell | None:
        """What to send next, or None: wait for the bell."""
        with self.changed:
            if self._farewell is not None:
                return self._farewell
            if not self.rounds.admits(registration):
                return Farewell("other")
            broadcast = self._broadcast
            sent = self.rounds.send_to(registration) if broadcast is not None else None
            if broadcast is None or sent is None:
                return None
            broadcast.acquire()
            return Ticket(sent.round, sent.attempt, sent, broadcast)

    def expect_upload(self, peer: Peer) -> Share:
        """As whose an upload of this peer could count, before it is known whose it is. Raises IdentityRefused."""
        with self.changed:
            return self.rounds.expect_upload(peer)

    def registered_hosts(self) -> set[str]:
        """The addresses from which clients registered in this process."""
        with self.changed:
            return {p.peer.host for p in self.rounds.participants.values() if p.peer is not None}

    def check_upload(self, client_id: str, peer: Peer) -> None:
        """Raises RegistrationRefused or IdentityRefused where this peer may not upload for that client."""
        with self.changed:
            self.rounds.check_upload(client_id, peer)

    def offer(self, submission: Submission) -> Verdict:
        """Decide what an upload is; raises as ``check_upload``. Follow with ``recorded`` when its events are out."""
        with self.changed:
            return self.rounds.offer(
                submission.client_id,
                submission.peer,
                submission.update_id,
                submission.accepted_at,
                submission.digest,
                submission.rejection,
                monotonic(),
            )

    def recorded(self, submission: Submission, verdict: Verdict) -> None:
        """The upload's events are emitted: it may be folded, and the attempt may end with it."""
        with self.changed:
            self.rounds.recorded(verdict)
            counts = verdict.decision is None
            if counts:
                self.updates.waiting[submission.client_id] = submission
            self.changed.notify_all()
        if not counts:
            submission.release()

    # --- for the coordinator -----------------------------------------------------------------------------------------

    def begin(self, round: int, number: int) -> Attempt:
        """Start an attempt. Its model is not to be had before ``publish``."""
        with self.changed:
            self._broadcast = None
            return self.rounds.start(round, number, monotonic())

    def publish(self, broadcast: Broadcast) -> None:
        """Let the sessions send the running attempt's model."""
        with self.changed:
            self._broadcast = broadcast
            bells = list(self._bells.values())
        for ring in bells:
            ring()

    def finish(self, farewell: Farewell) -> None:
        """Let the sessions say <FINISHED>."""
        with self.changed:
            self.rounds.finish()
            self._farewell = farewell
            bells = list(self._bells.values())
        for ring in bells:
            ring()
