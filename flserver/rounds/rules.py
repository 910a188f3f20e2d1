"""The rules of a run's rounds: who is in, what counts, when an attempt is over.

Pure: no threads, no sockets, no clock of its own. A method that needs the time is given ``now`` in monotonic seconds.
The coordinator calls this under its lock and does everything else outside.

Words: a *participant* is a client that registered in this run. An *attempt* is one try at a round; its *seats* are the
participants invited to it. A participant *owes* an answer after it missed a deadline: it is not invited again until
its late update has arrived or it has registered again.
"""

from flserver.errors import RegistrationRefused
from flserver.events.words import Participation
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity, Share
from flserver.rounds.seats import Answer, Attempt, Participant, Registration, Result, Seat, SentModel, Verdict
from flserver.settings import RoundPolicy

TRAINING_STARTED = "The server has already started the training. You cannot participate now"


class Rounds:
    """The state of one run's rounds.

    ``known`` are the participants of earlier processes of this run (client id → registrations so far); ``min_updates``
    is the settled quorum of an earlier process, if there was one; ``identity`` says who may speak for whom.
    """

    def __init__(
        self,
        policy: RoundPolicy,
        known: dict[str, tuple[int, int]],
        min_updates: int | None,
        identity: Identity | None = None,
    ) -> None:
        self._policy = policy
        self._identity = identity or Identity()
        self.participants = {
            client_id: Participant(client_id, data_size, registration)
            for client_id, (data_size, registration) in known.items()
        }
        self.min_updates = policy.min_updates or min_updates
        self.attempt: Attempt | None = None
        self._window_open = True
        self._window_from: float | None = None
        self._in_window: set[str] = set()
        self._finished = False

    # --- registration ------------------------------------------------------------------------------------------------

    def register(self, client_id: str, data_size: int, peer: Peer, now: float) -> Registration:
        """Reserve a registration. It takes part once :meth:`admit` says that it is on record.

        Raises RegistrationRefused or IdentityRefused with the text for the trainer.
        """
        known = self.participants.get(client_id)
        self._identity.check_registration(client_id, peer, known.peer if known is not None else None)
        if data_size > self._policy.max_data_size:
            raise RegistrationRefused(
                f"data_size {data_size} is more than --max-data-size {self._policy.max_data_size}"
            )
        if self._finished:
            raise RegistrationRefused("The run is over. You cannot participate now")
        if known is not None and (known.live or known.pending):
            raise RegistrationRefused(f"Client {client_id} is registered already, and its connection is alive")
        if not self._window_open and (known is None or not self._policy.rejoin):
            raise RegistrationRefused(TRAINING_STARTED)
        if known is None:
            known = self.participants[client_id] = Participant(client_id, data_size, 0)
        rejoined = known.registration > 0
        known.data_size, known.registration, known.pending = data_size, known.registration + 1, True
        known.peer, known.unanswered, known.answer, known.owes = peer, None, None, False
        if self._window_open:
            # One that comes again does not keep a sliding window open: it could do so for ever.
            slides = self._policy.join_window == "sliding" and client_id not in self._in_window
            if self._window_from is None or slides:
                self._window_from = now
            self._in_window.add(client_id)
        return Registration(client_id, known.registration, rejoined)

    def admit(self, registration: Registration) -> None:
        """The registration is on record: from the next attempt on it is invited."""
        participant = self.participants[registration.client_id]
        if participant.registration == registration.number and participant.pending:
            participant.pending, participant.live = False, True

    def leave(self, registration: Registration) -> None:
        """The registration's connection ended. What it already answered stays."""
        participant = self.participants[registration.client_id]
        if participant.registration != registration.number:
            return
        participant.live = participant.pending = False
        seat = self._seat(registration)
        if seat is not None:
            seat.left = True

    def _seat(self, registration: Registration) -> Seat | None:
        if self.attempt is None:
            return None
        seat = self.attempt.seats.get(registration.client_id)
        return seat if seat is not None and seat.registration == registration.number else None

    # --- the join window ---------------------------------------------------------------------------------------------

    @property
    def live_count(self) -> int:
        return sum(participant.live for participant in self.participants.values())

    def window_closes_at(self) -> float | None:
        """When the join window may close, or None before the first registration."""
        return None if self._window_from is None else self._window_from + self._policy.time_to_wait

    def window_over(self, now: float) -> bool:
        """Whether the time is up, enough clients are in, and nobody is half registered."""
        closes = self.window_closes_at()
        if closes is None or any(p.pending for p in self.participants.values()):
            return False
        time_is_up = now >= closes or (self._identity.roster is not None and not self.absent())
        return time_is_up and self.live_count >= self._needed

    def absent(self) -> tuple[str, ...]:
        """The clients on the roster that are not there, as text for people; none where there is no roster."""
        live = {p.client_id for p in self.participants.values() if p.live}
        return tuple(str(member) for member in self._identity.roster or () if member.client_id not in live)

    def window_short_of(self, now: float) -> int:
        """How many more clients the window stays open for although its time is up; 0 before that."""
        closes = self.window_closes_at()
        return 0 if closes is None or now < closes else max(0, self._needed - self.live_count)

    @property
    def _needed(self) -> int:
        return max(self._policy.min_clients, self._policy.min_updates or 1)

    def close_window(self) -> int:
        """Close the join window and settle the quorum, which is returned.

        One client alone makes rounds of its own model, so it must have been alone from the start: otherwise a single
        site's model would be broadcast as soon as the others dropped out.
        """
        self._window_open = False
        if self.min_updates is None:
            self.min_updates = 1 if len(self._in_window) == 1 else 2
        return self.min_updates

    # --- attempts ----------------------------------------------------------------------------------------------------

    def invitable(self) -> list[Participant]:
        """The participants that a model can be sent to now, in ascending order of their ids."""
        able = [p for p in self.participants.values() if p.live and not p.owes]
        return sorted(able, key=lambda participant: participant.client_id)

    def quorum_possible(self) -> bool:
        assert self.min_updates is not None
        return len(self.invitable()) >= self.min_updates

    def start(self, round: int, number: int, now: float) -> Attempt:
        """Begin an attempt with everyone who can be sent a model."""
        self.attempt = Attempt(round, number, now, now + self._policy.round_timeout)
        for participant in self.invitable():
            self.attempt.seats[participant.client_id] = Seat(
                participant.client_id, participant.data_size, participant.registration
            )
        self.attempt.not_sent = tuple(sorted(p.client_id for p in self.participants.values() if p.live and p.owes))
        return self.attempt

    def send_to(self, registration: Registration) -> SentModel | None:
        """The running attempt's model for this registration, once: None where it was handed out or not invited."""
        attempt, seat = self.attempt, self._seat(registration)
        if attempt is None or attempt.over or seat is None or seat.sent is not None:
            return None
        seat.sent = SentModel(attempt.round, attempt.number)
        self.participants[registration.client_id].unanswered = seat.sent
        return seat.sent

    def expect_upload(self, peer: Peer) -> Share:
        """As whose an upload of this peer could count, before it is known whose it is. Raises IdentityRefused."""
        registered = {p.client_id: p.peer for p in self.participants.values() if p.peer is not None}
        return self._identity.expect_upload(peer, registered)

    def admits(self, registration: Registration) -> bool:
        """Whether a registration may go on: a roster that was read again may have left its client out."""
        return self._identity.lists(registration.client_id)

    def check_upload(self, client_id: str, peer: Peer) -> Participant:
        """Whose upload it is. Raises RegistrationRefused where nobody of that name takes part, IdentityRefused where
        this peer may not speak for it."""
        participant = self.participants.get(client_id)
        if participant is None:
            raise RegistrationRefused(f"an update for client {client_id}, which has not registered")
        self._identity.check_upload(client_id, peer, participant.peer)
        return participant

    def offer(
        self,
        client_id: str,
        peer: Peer,
        update_id: int,
        accepted_at: float,
        digest: str,
        rejection: str | None,
        now: float,
    ) -> Verdict:
        """Decide what an upload of ``client_id`` is. ``accepted_at`` is when its connection was accepted, ``digest``
        its content's; ``rejection`` says why its content cannot count, if it cannot.

        Raises as :meth:`check_upload` does. An answer to the running attempt must be confirmed with :meth:`recorded`
        before that attempt can end.
        """
        participant = self.check_upload(client_id, peer)
        attempt = self.attempt
        running = attempt if attempt is not None and not attempt.over else None
        arrived = None if running is None else running.round
        number, size = participant.registration, participant.data_size
        sent = participant.unanswered
        if sent is None or sent.handed_over_at is None or accepted_at < sent.handed_over_at:
            reason = "connected before the model was sent" if sent is not None else _answered(participant, digest)
            return Verdict("duplicate", reason, None, size, number, arrived)
        participant.unanswered, participant.owes = None, False
        participant.answer = Answer(sent.round, digest)
        seat = None if running is None else running.seats.get(client_id)
        if running is None or seat is None or seat.sent is not sent:
            reason = f"attempt {sent.attempt} of round {sent.round} is over"
            return Verdict("late", reason, sent, size, number, arrived)
        rejection = rejection or self._too_heavy(seat, running)
        seat.answer = "counts" if rejection is None else "rejected"
        seat.update_id, seat.answered_at = update_id, now
        running.recording += 1
        return Verdict(None if rejection is None else "rejected", rejection, sent, seat.data_size, number, arrived)

    def _too_heavy(self, seat: Seat, attempt: Attempt) -> str | None:
        most, invited = self._policy.max_weight_share, sum(s.data_size for s in attempt.seats.values())
        if seat.data_size <= most * invited:
            return None
        return f"weight_share: {seat.data_size} of the {invited} samples invited is more than a share of {most:g}"

    def recorded(self, verdict: Verdict) -> None:
        """The answer that ``verdict`` decided is on record."""
        attempt, sent = self.attempt, verdict.answers
        if attempt is None or sent is None or verdict.decision == "late":
            return
        if (sent.round, sent.attempt) == (attempt.round, attempt.number):
            attempt.recording -= 1

    def waited_for(self) -> list[Seat]:
        """The seats whose answer may still come and is waited for."""
        assert self.attempt is not None
        return [seat for seat in self.attempt.seats.values() if seat.answer is None and not seat.left]

    def attempt_over(self, now: float, *, stopping: bool = False) -> bool:
        """Whether everyone waited for has answered or left, the deadline passed, or the run is ``stopping``; in any
        case with all answers on record."""
        assert self.attempt is not None
        done = stopping or now >= self.attempt.deadline or not self.waited_for()
        return done and self.attempt.recording == 0

    def end_attempt(self, *, stopped: bool = False) -> list[Result]:
        """End the running attempt: uploads decided from now on are late for it.

        Who missed its deadline owes an answer; nobody owes one to an attempt that was ``stopped``.
        """
        assert self.attempt is not None
        self.attempt.over = True
        return [Result(seat, self._participation(seat, stopped)) for seat in self.attempt.seats.values()]

    def _participation(self, seat: Seat, stopped: bool) -> Participation:
        if seat.answer is not None:
            return "answered"
        if seat.left:
            return "dropped"
        if stopped:
            return "cut_short"
        participant = self.participants[seat.client_id]
        participant.owes = participant.registration == seat.registration
        return "timed_out"

    def finish(self) -> None:
        """The run is over: nobody may register any more."""
        self._finished = True


def _answered(participant: Participant, digest: str) -> str:
    """Why an upload is a duplicate, where no model of its client is unanswered."""
    answer = participant.answer
    if answer is None:
        return "no model of this client is unanswered"
    same = "the same update as" if digest == answer.digest else "another update than"
    return f"{same} the one that answered round {answer.round}"
