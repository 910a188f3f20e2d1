"""The rules of a run's rounds: what counts, and when an attempt is over; ``participants`` has who is in.

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

One that is present is invited to the next attempt, unless it held rounds up (``backoff``). One that owes an answer is
not, so that it never works through a queue of stale models: its late update, or a new registration, brings it back.

An *attempt* is one try at a round; its *seats* are the participants invited to it. It is over when everyone waited for
has answered or left, at its deadline, or where it goes on without the rest (``--go-on-at``), and all answers so far are
on record.

An upload carries no round number. What it is follows from the one model that its client was sent and has not answered:

    none, or one not wholly handed over when the upload's connection was accepted   duplicate
    one whose attempt is over                                                       late
    one of the running attempt, and the update cannot count                         rejected
    one of the running attempt                                                      it counts: accepted, or aborted
                                                                                    with its attempt
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from flserver.errors import RegistrationRefused
from flserver.events.words import LeftReason, Participation
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity, Share
from flserver.rounds.backoff import sitting_out
from flserver.rounds.norms import NormRule, settle
from flserver.rounds.participants import Participants
from flserver.rounds.places import Places
from flserver.rounds.seats import Attempt, Participant, Registration, Result, Seat, SentModel, Upload, Verdict
from flserver.settings import RoundPolicy

GIVEN_UP: tuple[LeftReason, ...] = ("timeout", "protocol")
"""Why a registration is ended whose trainer has not ended its connection."""


class Rounds(Participants):
    """The state of one run's rounds.

    ``min_updates`` is the settled quorum of an earlier process, if there was one; the rest is of :class:`Participants`.
    Who is ``left_out`` is not invited.
    """

    def __init__(
        self,
        policy: RoundPolicy,
        known: Mapping[str, tuple[int, int]],
        min_updates: int | None,
        identity: Identity,
        visitors: Collection[str] = (),
        places: Places | None = None,
    ) -> None:
        super().__init__(policy, known, identity, visitors, places)
        if not any(participant.takes_part for participant in self.participants.values()):
            self.window.at_least = min_updates or 1  # nobody else can come once it is closed
        self.min_updates = policy.min_updates or min_updates
        self.attempt: Attempt | None = None
        self.norms = NormRule(policy.max_update_norm)
        self.left_out: frozenset[str] = frozenset()

    def close_window(self) -> int:
        """Close the join window and settle the quorum, which is returned."""
        quorum = self._close_window()
        self.min_updates = self.min_updates or quorum
        return self.min_updates

    def leave(self, registration: Registration, reason: LeftReason = "closed") -> None:
        seat = self._seat(registration)
        super().leave(registration, reason)
        if self.attempt is None or seat is None or seat.left:
            return
        seat.left = True
        if self.attempt.over or seat.answered:
            return
        seat.node_gone = reason == "node"
        backoff = self.participants[registration.client_id].backoff
        if reason in GIVEN_UP:
            backoff.missed(self.attempt.round)
        elif not self.attempt.awaits and any(other.answered for other in self.attempt.seats.values()):
            backoff.left_last(self.attempt.round)

    def _seat(self, registration: Registration) -> Seat | None:
        if self.attempt is None:
            return None
        seat = self.attempt.seats.get(registration.client_id)
        return seat if seat is not None and seat.registration == registration.number else None

    # --- attempts ----------------------------------------------------------------------------------------------------

    def invitable(self) -> list[Participant]:
        """The participants that a model can be sent to now, in ascending order of their ids."""
        able = [p for p in self.participants.values() if p.standing == "present" and not self._is_left_out(p)]
        return sorted(able, key=lambda participant: participant.client_id)

    def _is_left_out(self, participant: Participant) -> bool:
        return participant.client_id in self.left_out

    def quorum_possible(self) -> bool:
        """Whether a model can be sent to as many participants as a round needs updates."""
        assert self.min_updates is not None
        return len(self.invitable()) >= self.min_updates

    def inherit(self, round: int, digest: str | None) -> None:
        """That round is next, from the model with that digest: whose trainer holds another one of an earlier server
        owes the answer to that."""
        for participant in self.participants.values():
            held = participant.inherited
            if held is not None and (held.round, held.digest) != (round, digest) and participant.standing == "present":
                participant.move("misses a deadline")

    def start(self, round: int, number: int, now: float) -> Attempt:
        """Begin attempt ``number`` at ``round`` with everyone who can be sent a model and need not sit out; ``inherit``
        comes before, and ``publish`` follows, until which nothing answers it."""
        able, tried = self.invitable(), self.attempt is not None and self.attempt.round == round
        backoffs = {participant.client_id: participant.backoff for participant in able}
        # Where those who were invited did not do for the round, nobody sits out: it may be for want of them.
        out = set() if tried else sitting_out(backoffs, round, self.min_updates or 1)
        self.attempt = Attempt(round, number, now, now + self._policy.round_timeout)
        self.attempt.invite([participant for participant in able if participant.client_id not in out], self._policy)
        owing = {p.client_id: p.owes for p in self.participants.values() if p.standing == "owing"}
        not_sent = owing | {client_id: str(backoffs[client_id]) for client_id in out}
        not_sent |= {p.client_id: "implausible" for p in self.participants.values() if p.live and self._is_left_out(p)}
        self.attempt.not_sent = dict(sorted(not_sent.items()))
        return self.attempt

    def publish(self) -> None:
        """The running attempt's model may be sent from here on. Who has it from an earlier server is not sent it again,
        and answers this attempt: a round is made from one model, in whichever attempt. What it answered before this is
        late, for nodes may still have added it to what is of the attempt before: then it is sent the model, too."""
        attempt = self.attempt
        assert attempt is not None
        for seat in attempt.seats.values():
            participant = self.participants[seat.client_id]
            if (held := participant.inherited) is not None:
                sent = SentModel(attempt.round, attempt.number, inherited=True, digest=held.digest)
                participant.unanswered = seat.sent = sent

    def send_to(self, registration: Registration) -> SentModel | None:
        """The running attempt's model for this registration, once: None where it has it, has left or is not invited."""
        attempt, seat = self.attempt, self._seat(registration)
        if attempt is None or attempt.over or seat is None or seat.left or seat.sent is not None:
            return None
        seat.sent = SentModel(attempt.round, attempt.number)
        self.participants[registration.client_id].unanswered = seat.sent
        return seat.sent

    def waited_for(self) -> list[Seat]:
        """The seats whose answer may still come and is waited for."""
        assert self.attempt is not None
        return [seat for seat in self.attempt.seats.values() if seat.awaited]

    @property
    def ends_at(self) -> float:
        """When nobody is waited for any more in the running attempt, as far as is known now: at its deadline, or so
        long after enough answers came that it goes on without the rest (``--go-on-at``, ``--grace``)."""
        assert self.attempt is not None
        attempt, policy = self.attempt, self._policy
        if policy.go_on_at is None:
            return attempt.deadline
        quorum = self.min_updates or 1
        # Who is rejected has answered too: else one client that sends nonsense would have the others wait for the slow.
        enough = attempt.answered_at(max(policy.go_on_at.of(len(attempt.seats)), quorum), certain=quorum)
        return attempt.deadline if enough is None else min(attempt.deadline, enough + policy.grace)

    def attempt_over(self, now: float, *, stopping: bool = False) -> bool:
        """Whether everyone waited for has answered or left, it is time, or the run is ``stopping``; in any case with
        all answers on record."""
        assert self.attempt is not None
        done = stopping or now >= self.ends_at or not self.attempt.awaits
        return done and self.attempt.recording == 0

    def may_end(self, now: float) -> bool:
        """Whether no attempt runs, or the one that does is over, or will be before its deadline: what more answers tell
        nobody needs to know yet."""
        attempt = self.attempt
        if attempt is None or attempt.over:
            return True
        done = not attempt.awaits or self.ends_at < attempt.deadline or now >= attempt.deadline
        return done and attempt.recording == 0

    def end_attempt(self, now: float = math.inf, *, stopped: bool = False) -> list[Result]:
        """End the running attempt: uploads decided from now on are late for it.

        Who has not answered owes an answer, but nobody owes one to an attempt that was ``stopped``. At its deadline it
        was held up by them; where it went on without them it was not.
        """
        assert self.attempt is not None
        self.attempt.over = True
        settle(self.attempt)
        held_up = now >= self.attempt.deadline
        return [Result(seat, self._participation(seat, stopped, held_up)) for seat in self.attempt.seats.values()]

    def _participation(self, seat: Seat, stopped: bool, held_up: bool) -> Participation:
        assert self.attempt is not None
        if seat.answered:
            return "answered"
        if seat.left:
            return "dropped"
        if stopped:
            return "cut_short"
        participant = self.participants[seat.client_id]
        if participant.standing == "present":
            participant.move("misses a deadline")
        if held_up:
            participant.backoff.missed(self.attempt.round)
        return "timed_out"

    # --- uploads -----------------------------------------------------------------------------------------------------

    def expect_upload(self, peer: Peer) -> Share:
        """As whose an upload of this peer could count, before it is known whose it is. Raises IdentityRefused."""
        return self._identity.expect_upload(peer, self.registered)

    def sender(self, client_id: str | None, peer: Peer) -> tuple[str | None, tuple[str, ...]]:
        """Whose an upload is that cannot be used and may say whose; where that is not known, whose it could be."""
        sender = self._identity.sender(client_id, peer, self.registered)
        return sender, () if sender is not None else self._identity.could_be(peer, self.registered)

    def not_asked(self, peer: Peer, accepted_at: float) -> str | None:
        """Whose a peer's upload is, if that is certain and it can only be a duplicate."""
        sender = self._identity.sender(None, peer, self.registered)
        return sender if sender is not None and self.participants[sender].asked(accepted_at) is None else None

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
        attempt, data_size = self.attempt, participant.data_size
        arrived = attempt.round if attempt is not None and not attempt.over else None
        if (sent := participant.asked(upload.accepted_at)) is None:
            why = participant.why_duplicate(upload.digest)
            return Verdict(decision="duplicate", reason=why, answers=None, data_size=data_size, arrived_round=arrived)
        participant.answer(sent, upload.digest)
        seat = None if attempt is None or attempt.over else attempt.seats.get(upload.client_id)
        if attempt is None or seat is None or seat.sent is not sent:
            why = f"attempt {sent.attempt} of round {sent.round} is over"
            return Verdict(decision="late", reason=why, answers=sent, data_size=data_size, arrived_round=arrived)
        participant.backoff.answered()
        rejection = upload.rejection or seat.weight.refusal
        too_far, suspicion = self.norms.too_far(upload.norms), self.norms.suspicion(upload.norms)
        attempt.take(seat, upload, now, rejection or too_far, suspicion)
        return Verdict(
            decision=seat.decision,
            reason=seat.rejection,
            answers=sent,
            data_size=data_size,
            arrived_round=arrived,
            counted_size=seat.counted_size,
            suspect=seat.pending,
        )

    def reject_answer(self, upload: Upload, verdict: Verdict, rejection: str) -> Verdict:
        """What ``verdict`` let count, and is not confirmed yet, cannot: the new verdict."""
        assert self.attempt is not None
        self.attempt.seats[upload.client_id].reject(rejection)
        return replace(verdict, decision="rejected", reason=rejection, suspect=False)

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
