"""Where sessions and the coordinator meet: one lock, one condition, and the state that both sides change.

Sessions call in from their own threads: ``register``, ``confirm_registration`` and ``leave`` for a registration,
``next_ticket`` for the next model to send, ``offer`` and ``confirm_update`` for an update. The coordinator starts, ends
and awaits attempts here. The rules are those of ``rules.Rounds``; while the lock is held nothing emits or computes.
"""

import math
from collections.abc import Sequence

from flserver.clock import Deadline, monotonic
from flserver.events.words import LeftReason
from flserver.identity.peer import Peer
from flserver.identity.rules import Share
from flserver.rounds.apart import Apart
from flserver.rounds.broadcast import Broadcast, Published, Ring, Send, Ticket, call
from flserver.rounds.endings import Farewell, Interrupted, Stop
from flserver.rounds.join_window import Stage
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Attempt, Registration, Seat, SentModel, Upload, Verdict
from flserver.rounds.updates import EndedAttempt, Ready, Submission, Updates
from flserver.rounds.waiting import Waiting, training, waiting

RECORDING_WAIT = 1.0  # seconds; only a bound, the thread that records notifies


class Exchange(Apart):
    """Everybody's in the process that makes the rounds; ``door.Door`` has what sessions use of it."""

    @property
    def model(self) -> CurrentModel:
        """The global model; replaced as a whole and never changed in place, so it is read without the lock."""
        return self._model

    @property
    def current_round(self) -> int:
        """The round that is being made, else the last committed one; -1 before round 0 is."""
        with self._changed:
            attempt = self._rounds.attempt
            return max(self._model.round, attempt.round if attempt is not None else -1)

    @property
    def waiting(self) -> Waiting:
        """Whom the run waits for now."""
        with self._changed:
            return Waiting() if self._farewell else waiting(self._rounds, stopping=self._stop is not None)

    @property
    def stops_at(self) -> float | None:
        """When (monotonic) what runs is cut short, where somebody asked for the end of the run."""
        return None if (stop := self._stop) is None else stop.deadline.at

    # --- for the owner -----------------------------------------------------------------------------------------------

    def stop(self, reason: str, grace: float = 0.0) -> None:
        """Ask the coordinator to end the run: no attempt starts any more, and the running one is aborted unless it ends
        within ``grace`` seconds. Of several the earliest counts. Does nothing when the run has ended."""
        stop = Stop(reason, Deadline.after(grace))
        with self._changed:
            if self._stop is None or stop.deadline.at < self._stop.deadline.at:
                self._stop = stop
            self._changed.notify_all()

    def roster_changed(self) -> None:
        """The roster was read again: who is left out goes, and the join window may be over."""
        with self._changed:
            self._changed.notify_all()
        self._ring()

    # --- for sessions ------------------------------------------------------------------------------------------------

    def accepted(self) -> float:
        """When a connection was accepted that is accepted now."""
        return monotonic()

    def ended(self, accepted_at: float) -> None:
        """That connection is over."""

    # --- for sessions: registrations ---------------------------------------------------------------------------------

    def register(self, client_id: str, data_size: int, peer: Peer, holds: SentModel | None = None) -> Registration:
        """Reserve a registration of a client with ``data_size`` samples; ``holds`` is the rules'. Raises
        RegistrationRefused or IdentityRefused. ``confirm_registration`` has to follow, once on record, or ``leave``."""
        with self._changed:
            registration = self._rounds.register(client_id, data_size, peer, monotonic(), holds)
            self._changed.notify_all()
            return registration

    def confirm_registration(self, registration: Registration, ring: Ring, send: Send = lambda: False) -> None:
        """Let a recorded registration take part. ``ring`` is called when ``next_ticket`` may have something new, unless
        that is a small model and ``send`` has sent it, which does not wait."""
        with self._changed:
            self._rounds.confirm_registration(registration)
            self._bells[registration] = ring, send
            self._changed.notify_all()

    def leave(self, registration: Registration, reason: LeftReason = "closed") -> None:
        """The registration's connection has ended, for that reason."""
        with self._changed:
            self._bells.pop(registration, None)
            self._rounds.leave(registration, reason)
            self._changed.notify_all()

    def next_ticket(self, registration: Registration) -> Ticket | Farewell | None:
        """What to send next, or None: wait for the bell."""
        with self._changed:
            sent = self.next_model(registration)
            if not isinstance(sent, SentModel):
                return sent
            assert isinstance(self._broadcast, Broadcast)
            self._broadcast.acquire()
            return Ticket(sent, self._broadcast)

    # --- for sessions: uploads ---------------------------------------------------------------------------------------

    def expect_upload(self, peer: Peer) -> Share:
        """As whose an upload of this peer could count, before it is known whose it is. Raises IdentityRefused."""
        with self._changed:
            return self._rounds.expect_upload(peer)

    def sender(self, client_id: str | None, peer: Peer) -> tuple[str | None, tuple[str, ...]]:
        """Whose an upload is that cannot be used, as ``Rounds.sender`` says."""
        with self._changed:
            return self._rounds.sender(client_id, peer)

    def not_asked(self, peer: Peer, accepted_at: float) -> str | None:
        """Whose an upload is that can only be a duplicate, as ``Rounds.not_asked`` says."""
        with self._changed:
            return self._rounds.not_asked(peer, accepted_at)

    def registered_peers(self) -> list[tuple[Peer, bool]]:
        """Who registered clients in this process, each with whether that client is there."""
        with self._changed:
            return self._rounds.registered_peers()

    def check_upload(self, client_id: str, peer: Peer) -> None:
        """Raises RegistrationRefused or IdentityRefused where this peer may not upload for that client."""
        with self._changed:
            self._rounds.check_upload(client_id, peer)

    def offer(self, upload: Upload) -> Verdict:
        """Decide what it is; raises as ``check_upload``. ``confirm_update`` or ``withdraw_update`` has to follow."""
        with self._changed:
            return self._rounds.offer(upload, monotonic())

    def reject_update(self, upload: Upload, verdict: Verdict, rejection: str) -> Verdict:
        """What was offered and counts cannot, for that reason: the verdict from here on."""
        with self._changed:
            return self._rounds.reject_answer(upload, verdict, rejection)

    def confirm_update(self, submission: Submission, verdict: Verdict, *, folded: bool = False) -> None:
        """The upload's events are emitted: the attempt may end with it. What counts is ``folded``, or may be now."""
        with self._changed:
            self._rounds.confirm_answer(verdict)
            if verdict.counts:
                self._updates.put(submission, folded=folded)
            if self._updates.waiting or self._stop or self._failure or self._rounds.may_end(monotonic()):
                self._changed.notify_all()
        if not verdict.counts:
            submission.release()

    def withdraw_update(self, upload: Upload, verdict: Verdict) -> None:
        """The upload's events could not be emitted: it answers nothing, and its memory is the caller's to release."""
        with self._changed:
            self._rounds.withdraw_answer(upload, verdict)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Folding failed, on a session's thread or at a node: the coordinator raises it."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    # --- for the coordinator -----------------------------------------------------------------------------------------

    def check_stop(self) -> None:
        """Raises Interrupted where somebody asked for the end of the run."""
        if self._stop is not None:
            raise Interrupted(self._stop.reason)

    def wait_in_window(self, seen: Stage, wake_at: float) -> Stage | None:
        """Wait for the window's end, None, or until ``wake_at`` for another stage than ``seen``. Raises Interrupted."""
        with self._changed:
            while not self._rounds.window_over(now := monotonic()):
                self.check_stop()
                stage = self._rounds.window_stage(now)
                if stage != seen or now >= wake_at:
                    return stage
                closes = self._rounds.window.closes_at
                # Past its end the window stays open until enough are in: then only a registration can close it.
                until = wake_at if closes is None or closes <= now else min(wake_at, closes)
                self._changed.wait(None if until == math.inf else until - now)
            return None

    def close_window(self) -> tuple[int, tuple[str, ...]]:
        """Close the join window: the quorum, which is settled then, and who on the roster is not there."""
        with self._changed:
            return self._rounds.close_window(), self._rounds.absent()

    def quorum_possible(self) -> bool:
        """Whether a model can be sent to as many participants as a round needs. Raises Interrupted."""
        with self._changed:
            self.check_stop()
            self._rounds.inherit(self._model.round + 1, self._model.digest)
            return self._rounds.quorum_possible()

    def await_quorum(self, deadline: Deadline, wake_at: float) -> bool:
        """Wait until a quorum can be sent a model; False at ``wake_at``. Raises Interrupted at the deadline."""
        with self._changed:
            while not self.quorum_possible():
                if deadline.passed:
                    able, needed = len(self._rounds.invitable()), self._rounds.min_updates
                    there = f"only {able} of the {needed} participants that a round needs were there"
                    fewer = f"; --min-updates {able} makes rounds of so many" if able > 1 else ""
                    raise Interrupted(f"{there} within --rejoin-timeout{waiting(self._rounds).left_out}{fewer}")
                if (now := monotonic()) >= wake_at:
                    return False
                self._changed.wait(min(deadline.at, wake_at) - now)
            return True

    def begin(self, round: int, number: int) -> Attempt:
        """Start attempt ``number`` at ``round``. Its model is not to be had before ``publish``. Raises Interrupted."""
        with self._changed:
            self.check_stop()
            self._broadcast = None
            self._rounds.inherit(self._model.round + 1, self._model.digest)
            return self._rounds.start(round, number, monotonic())

    def publish(self, broadcast: Published) -> None:
        """Let the running attempt's model be sent: here, where that takes no waiting, else by the sessions."""
        with self._changed:
            self._broadcast = broadcast
            self._rounds.publish()
        self._ring(small=broadcast.small)

    def take_ready(self, attempt: Attempt, wake_at: float) -> Ready | EndedAttempt:
        """Wait for updates whose turn it is to be folded, of which there are none at ``wake_at``, or for the attempt's
        end, which is seen and made under one hold of the lock: an answer comes before both or after both. Raises what
        ``fail`` was given."""
        with self._changed:
            while not (ready := self._updates.take_next(attempt)):
                if self._failure is not None:
                    raise self._failure
                now, stop = monotonic(), self._stop
                if self._rounds.attempt_over(now):
                    return self.close_attempt(attempt)
                if stop is not None and stop.deadline.passed and self._rounds.attempt_over(now, stopping=True):
                    return self.close_attempt(attempt, stop.reason)
                if now >= wake_at:
                    return []
                left = min(self._rounds.ends_at, math.inf if stop is None else stop.deadline.at, wake_at) - now
                # Past the deadline only an answer that is being recorded is waited for; its thread notifies.
                self._changed.wait(left if left > 0 else RECORDING_WAIT)
            return ready

    def close_attempt(self, attempt: Attempt, stopped_by: str | None = None) -> EndedAttempt:
        """End the attempt, or cut it short where it was ``stopped_by`` somebody: from here on answers are late."""
        with self._changed:
            results = self._rounds.end_attempt(monotonic(), stopped=stopped_by is not None)
            # Where we failed, an answer may still be on its way into the record, and what ends an attempt comes after.
            self._changed.wait_for(lambda: attempt.recording == 0, RECORDING_WAIT)
            updates, self._updates = self._updates, Updates()
            return EndedAttempt(results, updates, stopped_by, self._rounds.min_updates or 1)

    def replace_model(self, model: CurrentModel, accepted: Sequence[Seat] = ()) -> None:
        """A round is committed, of the updates ``accepted``: from here on others are held against its model."""
        with self._changed:
            self._model = model
            self._rounds.left_out = frozenset()
            self._rounds.norms.committed(accepted)

    def leave_out(self, client_id: str) -> None:
        """Do not invite this client any more before a round is committed."""
        with self._changed:
            self._rounds.left_out |= {client_id}

    def await_trainers(self, wake_at: float) -> bool:
        """Wait, within a stop's grace, until nobody trains who would find the door closed; False at ``wake_at``."""
        with self._changed:
            while (stop := self._stop) is not None and not stop.deadline.passed and training(self._rounds):
                if (now := monotonic()) >= wake_at:
                    return False
                self._changed.wait(min(stop.deadline.at, wake_at) - now)
            return True

    def finish(self, farewell: Farewell) -> None:
        """Let the sessions say goodbye."""
        with self._changed:
            self._rounds.finish(farewell.refusal)
            self._farewell = farewell
        self._ring()

    def _ring(self, *, small: bool = False) -> None:
        """Wake every session that may have a ticket, but for a ``small`` model that was sent. Never under the lock."""
        with self._changed:
            bells = list(self._bells.values())
        for ring, send in bells:
            call(ring, send, small=small)
