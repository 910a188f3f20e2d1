"""The rules of a run's rounds: who is in, what counts, when an attempt is over.

Pure: no threads, no sockets, no clock of its own. A method that needs the time is given ``now`` in monotonic seconds.
``exchange.Exchange`` calls this under its lock.

A *participant* is a client that registered in this run. Where it stands, and what moves it (``seats.MOVES``):

    absent       registers          registering
    absent       answers            absent
    registering  is on record       present
    registering  leaves             absent
    present      answers            present
    present      misses a deadline  owing
    present      leaves             absent
    owing        answers            present
    owing        leaves             absent

One that is present is invited to the next attempt. One that owes an answer is not, so that it never works through a
queue of stale models: its late update, or a new registration, brings it back.

An *attempt* is one try at a round; its *seats* are the participants invited to it. It is over when everyone waited for
has answered or left, or at its deadline, and all answers so far are on record.

An upload carries no round number. What it is follows from the one model that its client was sent and has not answered:

    none, or one not wholly handed over when the upload's connection was accepted   duplicate
    one whose attempt is over                                                       late
    one of the running attempt, and the update cannot count                         rejected
    one of the running attempt                                                      it counts: accepted, or aborted
                                                                                    with its attempt
"""

from collections.abc import Mapping

from flserver.errors import RegistrationRefused
from flserver.events.words import Decision, Participation
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity, Share
from flserver.rounds.join_window import JoinWindow
from flserver.rounds.seats import (
    Attempt,
    Participant,
    Registration,
    Result,
    Seat,
    SentModel,
    Upload,
    Verdict,
)
from flserver.settings import RoundPolicy

TRAINING_STARTED = "The server has already started the training. You cannot participate now"


class Rounds:
    """The state of one run's rounds. ``known`` are the participants of earlier processes of this run (client id →
    samples, registrations), ``min_updates`` their quorum, if it was settled; ``identity`` says who speaks for whom."""

    def __init__(
        self, policy: RoundPolicy, known: Mapping[str, tuple[int, int]], min_updates: int | None, identity: Identity
    ) -> None:
        self._policy = policy
        self._identity = identity
        self.participants = {
            client_id: Participant(client_id, data_size, registration)
            for client_id, (data_size, registration) in known.items()
        }
        self.min_updates = policy.min_updates or min_updates
        self.attempt: Attempt | None = None
        self.window = JoinWindow(policy)
        self._refusal: str | None = None  # of every registration, once the run is over

    # --- registration ------------------------------------------------------------------------------------------------

    def register(self, client_id: str, data_size: int, peer: Peer, now: float) -> Registration:
        """Reserve a registration of ``client_id`` with ``data_size`` samples. It takes part once
        :meth:`confirm_registration` says that it is on record.

        Raises RegistrationRefused or IdentityRefused with the text for the trainer.
        """
        known = self.participants.get(client_id)
        self._identity.check_registration(client_id, peer, known.peer if known is not None else None)
        if data_size > self._policy.max_data_size:
            raise RegistrationRefused(
                f"data_size {data_size} is more than --max-data-size {self._policy.max_data_size}"
            )
        if self._refusal is not None:
            raise RegistrationRefused(self._refusal)
        if known is not None and known.standing != "absent":
            raise RegistrationRefused(f"Client {client_id} is registered already, and its connection is alive")
        if not self.window.open and (known is None or not self._policy.rejoin):
            raise RegistrationRefused(TRAINING_STARTED)
        if known is None:
            known = self.participants[client_id] = Participant(client_id, data_size, 0)
        rejoined = known.registration > 0
        known.move("registers")
        known.data_size, known.registration = data_size, known.registration + 1
        known.peer, known.unanswered, known.last_answer = peer, None, None
        self.window.take(client_id, now)
        return Registration(client_id, known.registration, rejoined)

    def confirm_registration(self, registration: Registration) -> None:
        """The registration is on record: from the next attempt on it is invited."""
        participant = self.participants[registration.client_id]
        if participant.registration == registration.number and participant.standing == "registering":
            participant.move("is on record")

    def leave(self, registration: Registration) -> None:
        """The registration's connection ended. What it already answered stays."""
        participant = self.participants[registration.client_id]
        if participant.registration != registration.number or participant.standing == "absent":
            return
        participant.move("leaves")
        seat = self._seat(registration)
        if seat is not None:
            seat.left = True

    def still_listed(self, registration: Registration) -> bool:
        """Whether a registration may go on: a roster that was read again may have left its client out."""
        return self._identity.lists(registration.client_id)

    def _seat(self, registration: Registration) -> Seat | None:
        if self.attempt is None:
            return None
        seat = self.attempt.seats.get(registration.client_id)
        return seat if seat is not None and seat.registration == registration.number else None

    # --- the join window ---------------------------------------------------------------------------------------------

    def window_over(self, now: float) -> bool:
        """Whether the join window may close; nobody must be half registered."""
        half = any(participant.standing == "registering" for participant in self.participants.values())
        all_there = self._identity.roster is not None and not self.absent()
        return not half and self.window.over(now, live=self._live, all_there=all_there)

    def window_short_of(self, now: float) -> int:
        """How many more clients the window stays open for although its time is up; 0 before that."""
        return self.window.short_of(now, live=self._live)

    def close_window(self) -> int:
        """Close the join window and settle the quorum, which is returned."""
        quorum = self.window.close()
        self.min_updates = self.min_updates or quorum
        return self.min_updates

    def absent(self) -> tuple[str, ...]:
        """The clients on the roster that are not there, as text for people; none where there is no roster."""
        live = {p.client_id for p in self.participants.values() if p.live}
        return tuple(str(member) for member in self._identity.roster or () if member.client_id not in live)

    @property
    def _live(self) -> int:
        return sum(participant.live for participant in self.participants.values())

    # --- attempts ----------------------------------------------------------------------------------------------------

    def invitable(self) -> list[Participant]:
        """The participants that a model can be sent to now, in ascending order of their ids."""
        able = [p for p in self.participants.values() if p.standing == "present"]
        return sorted(able, key=lambda participant: participant.client_id)

    def quorum_possible(self) -> bool:
        """Whether a model can be sent to as many participants as a round needs updates."""
        assert self.min_updates is not None
        return len(self.invitable()) >= self.min_updates

    def start(self, round: int, number: int, now: float) -> Attempt:
        """Begin attempt ``number`` at ``round`` with everyone who can be sent a model."""
        self.attempt = Attempt(round, number, now, now + self._policy.round_timeout)
        for participant in self.invitable():
            self.attempt.seats[participant.client_id] = Seat(
                participant.client_id, participant.data_size, participant.registration
            )
        owing = (p.client_id for p in self.participants.values() if p.standing == "owing")
        self.attempt.not_sent = tuple(sorted(owing))
        return self.attempt

    def send_to(self, registration: Registration) -> SentModel | None:
        """The running attempt's model for this registration, once: None where it was handed out or not invited."""
        attempt, seat = self.attempt, self._seat(registration)
        if attempt is None or attempt.over or seat is None or seat.sent is not None:
            return None
        seat.sent = SentModel(attempt.round, attempt.number)
        self.participants[registration.client_id].unanswered = seat.sent
        return seat.sent

    def waited_for(self) -> list[Seat]:
        """The seats whose answer may still come and is waited for."""
        assert self.attempt is not None
        return [seat for seat in self.attempt.seats.values() if not seat.answered and not seat.left]

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
        if seat.answered:
            return "answered"
        if seat.left:
            return "dropped"
        if stopped:
            return "cut_short"
        participant = self.participants[seat.client_id]
        if participant.standing == "present":
            participant.move("misses a deadline")
        return "timed_out"

    def finish(self, refusal: str) -> None:
        """The run is over: nobody may register any more; ``refusal`` is the text for the trainer."""
        self._refusal = refusal

    # --- uploads -----------------------------------------------------------------------------------------------------

    def expect_upload(self, peer: Peer) -> Share:
        """As whose an upload of this peer could count, before it is known whose it is. Raises IdentityRefused."""
        return self._identity.expect_upload(peer, self._registered())

    def sender(self, client_id: str | None, peer: Peer) -> tuple[str | None, tuple[str, ...]]:
        """Whose an upload is that cannot be used and may say whose; where that is not known, whose it could be."""
        registered = self._registered()
        sender = self._identity.sender(client_id, peer, registered)
        return sender, () if sender is not None else self._identity.could_be(peer, registered)

    def not_asked(self, peer: Peer, accepted_at: float) -> str | None:
        """Whose a peer's upload is, if that is certain and it can only be a duplicate."""
        sender = self._identity.sender(None, peer, self._registered())
        return sender if sender is not None and self.participants[sender].asked(accepted_at) is None else None

    def _registered(self) -> dict[str, Peer]:
        """The peers that registered in this process, by client."""
        return {p.client_id: p.peer for p in self.participants.values() if p.peer is not None}

    def check_upload(self, client_id: str, peer: Peer) -> Participant:
        """Whose upload it is. Raises RegistrationRefused where nobody of that name takes part, IdentityRefused where
        this peer may not speak for it."""
        participant = self.participants.get(client_id)
        if participant is None:
            raise RegistrationRefused(f"an update for client {client_id}, which has not registered")
        self._identity.check_upload(client_id, peer, participant.peer)
        return participant

    def offer(self, upload: Upload, now: float) -> Verdict:
        """Decide what an upload is; the table is at the top of this file.

        Raises as :meth:`check_upload` does. An answer to the running attempt must be confirmed with
        :meth:`confirm_answer`, or withdrawn with :meth:`withdraw_answer`, before that attempt can end.
        """
        participant = self.check_upload(upload.client_id, upload.peer)
        running = self.attempt if self.attempt is not None and not self.attempt.over else None

        def verdict(decision: Decision | None, reason: str | None, answers: SentModel | None, size: int) -> Verdict:
            return Verdict(
                decision=decision,
                reason=reason,
                answers=answers,
                data_size=size,
                arrived_round=None if running is None else running.round,
            )

        if (sent := participant.asked(upload.accepted_at)) is None:
            return verdict("duplicate", participant.why_duplicate(upload.digest), None, participant.data_size)
        participant.answer(sent, upload.digest)
        seat = None if running is None else running.seats.get(upload.client_id)
        if running is None or seat is None or seat.sent is not sent:
            reason = f"attempt {sent.attempt} of round {sent.round} is over"
            return verdict("late", reason, sent, participant.data_size)
        rejection = upload.rejection or running.too_heavy(seat, self._policy.max_weight_share)
        seat.decision = None if rejection is None else "rejected"
        seat.update_id, seat.answered_at = upload.update_id, now
        running.recording += 1
        return verdict(seat.decision, rejection, sent, seat.data_size)

    def confirm_answer(self, verdict: Verdict) -> None:
        """The answer that ``verdict`` decided is on record."""
        attempt, sent = self.attempt, verdict.answers
        if attempt is None or sent is None or verdict.decision == "late":
            return
        if (sent.round, sent.attempt) == (attempt.round, attempt.number):
            attempt.recording -= 1

    def withdraw_answer(self, upload: Upload, verdict: Verdict) -> None:
        """What ``verdict`` decided of an upload could not be put on record: it answers nothing."""
        if verdict.answers is not None:
            self.participants[upload.client_id].take_back(verdict.answers, upload.digest)
        if self.attempt is not None:
            self.attempt.take_back(upload)
        self.confirm_answer(verdict)
