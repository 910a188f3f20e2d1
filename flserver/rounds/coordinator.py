"""The round thread: it decides when an attempt starts and ends, folds the updates, and commits.

What sessions do reaches it through ``exchange.Exchange``; the rules are in ``rounds.Rounds``; making a round of the
updates is ``committer.Committer``'s. Every fact that somebody outside can see the effect of is durable first.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping

from flserver import events
from flserver.aggregation import State
from flserver.clock import monotonic, utc_now, utc_text, utc_timestamp
from flserver.errors import FlserverError, StoreError, one_line
from flserver.events.bus import Bus
from flserver.events.words import RunState, RunStatus
from flserver.rounds import Attempt, Result, Seat
from flserver.rounds.broadcast import Broadcast, BroadcastBuffers
from flserver.rounds.committer import Committer
from flserver.rounds.exchange import Exchange, Farewell, Submission, Updates
from flserver.rounds.outcomes import aborted
from flserver.settings import RoundPolicy

logger = logging.getLogger(__name__)

COMMIT_SECONDS = 600.0  # aggregating, evaluating and writing a large model; beyond it /healthz is worried
RECORDING_WAIT = 1.0  # seconds; only a bound, the thread that records notifies


class Interrupted(Exception):
    """The run cannot go on now; ``str`` says why."""


class Coordinator:
    """Runs the rounds after ``committer.round`` up to ``policy.num_rounds``, on a thread of its own.

    ``attempts_before`` has the attempts that earlier processes made at a round; ``on_end`` is called last. ``due`` is
    when (monotonic) the coordinator will have moved on, None while it waits without a deadline.
    """

    def __init__(
        self,
        *,
        policy: RoundPolicy,
        exchange: Exchange,
        committer: Committer,
        buffers: BroadcastBuffers,
        bus: Bus,
        process_id: int,
        attempts_before: Mapping[int, int],
        on_end: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._exchange = exchange
        self._rounds = exchange.rounds
        self._committer = committer
        self._buffers = buffers
        self._bus = bus
        self._process_id = process_id
        self._attempts = dict(attempts_before)
        self._on_end = on_end
        self._current: tuple[Broadcast, State] | None = None
        self._thread = threading.Thread(target=self._run, name="coordinator")
        self.due: float | None = None
        self.status = "running"
        self.state: RunState = "joining"
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    @property
    def current_round(self) -> int:
        """The round that is being made, else the last committed one; -1 before round 0 is."""
        attempt = self._rounds.attempt
        return max(self._committer.round, attempt.round if attempt is not None else -1)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._committer.round < 0:
                self._attempts[0] = self._attempts.get(0, 0) + 1
                self._committer.commit_initial(self._attempts[0])
            if self._committer.round < self._policy.num_rounds:
                self._join_window()
            for round in range(self._committer.round + 1, self._policy.num_rounds + 1):
                self._run_round(round)
        except Interrupted as interruption:
            self._end("interrupted", str(interruption))
        except BaseException as error:
            if not isinstance(error, FlserverError):
                logger.exception("the coordinator failed")
            self.error = error
            self._end("failed", one_line(error))
        else:
            self._end("completed", None)
        finally:
            self._on_end()

    def _join_window(self) -> None:
        announced = 0
        while (short := self._wait_in_window(announced)) is not None:
            announced = short
            if short:
                needed = f"{short} more client{'s' * (short > 1)} needed by --min-clients or --min-updates"
                with self._exchange.changed:
                    absent = self._rounds.absent()
                missing = f"; not there: {', '.join(absent)}" if absent else ""
                self._bus.emit(events.StateChanged(state="joining", detail=needed + missing))
        with self._exchange.changed:
            min_updates, absent = self._rounds.close_window(), self._rounds.absent()
        self._bus.emit(events.QuorumSettled(min_updates=min_updates, absent=absent))

    def _wait_in_window(self, announced: int) -> int | None:
        """None when the join window is over, else how many clients it is short of, when that is not ``announced``."""
        with self._exchange.changed:
            while not self._rounds.window_over(monotonic()):
                self._check_stop()
                short = self._rounds.window_short_of(monotonic())
                if short != announced:
                    return short
                closes = self._rounds.window_closes_at()
                left = None if closes is None else closes - monotonic()
                # Past its end the window stays open until enough are in: then only a registration can close it.
                self._exchange.changed.wait(left if left is not None and left > 0 else None)
            return None

    def _run_round(self, round: int) -> None:
        """Attempts at one round until it commits. Raises Interrupted."""
        misses = 0
        while not self._attempt(round):
            misses += 1
            if misses >= self._policy.round_attempts:
                raise Interrupted(f"round {round} missed its quorum {misses} times")

    def _attempt(self, round: int) -> bool:
        """One attempt; whether it was committed. Raises Interrupted, after the attempt was aborted."""
        self._await_participants()
        attempt = self._start(round)
        try:
            self._open(attempt)
            results, updates, stopped_by = self._collect(attempt)
        except BaseException:
            results, updates, _ = self._close(attempt)
            self._fail(attempt, results, updates)
            raise
        accepted = [result.seat for result in results if result.seat.answer == "counts"]
        if stopped_by is None and len(accepted) >= (self._rounds.min_updates or 1):
            try:
                self._commit(attempt, results, accepted, updates)
            except BaseException:
                self._fail(attempt, results, updates)
                raise
            updates.release()
            return True
        updates.release()
        self._abort(attempt, results, stopped_by or "quorum")
        self._check_stop()
        return False

    def _await_participants(self) -> None:
        """Wait until a quorum can be sent a model. Raises Interrupted after ``rejoin_timeout``."""
        changed = self._exchange.changed
        with changed:
            self._check_stop()
            if self._rounds.quorum_possible():
                return
        self._enter("waiting", "fewer participants than --min-updates can be sent a model")
        until = monotonic() + self._policy.rejoin_timeout
        self.due = until
        with changed:
            while not self._rounds.quorum_possible():
                self._check_stop()
                left = until - monotonic()
                if left <= 0:
                    able, needed = len(self._rounds.invitable()), self._rounds.min_updates
                    raise Interrupted(
                        f"only {able} of the {needed} participants that a round needs were there after "
                        f"{self._policy.rejoin_timeout:g} s"
                    )
                changed.wait(left)

    def _start(self, round: int) -> Attempt:
        """Start an attempt, on record; ``_open`` makes it visible to the sessions."""
        self._enter("running", None)
        number = self._attempts[round] = self._attempts.get(round, 0) + 1
        attempt = self._exchange.begin(round, number)
        self.due = attempt.deadline
        self._bus.emit(
            events.AttemptStarted(
                round=round,
                attempt=number,
                process_id=self._process_id,
                clients=tuple(attempt.seats),
                not_sent=attempt.not_sent,
                deadline_at=_in_wall_clock(attempt.deadline),
                base_digest=self._committer.digest,
            )
        )
        return attempt

    def _open(self, attempt: Attempt) -> None:
        """Let the sessions send the model, once everything it rests on is durable."""
        broadcast = self._render(self._committer.model)
        self._committer.begin()
        self._bus.flush()
        self._exchange.publish(broadcast)
        self._committer.prune()

    def _render(self, model: State) -> Broadcast:
        """The model's bytes; those of the last attempt where it had the same model."""
        if self._current is None or self._current[1] is not model:
            self._current = self._buffers.render(model, self._current[0] if self._current else None), model
        return self._current[0]

    def _collect(self, attempt: Attempt) -> tuple[list[Result], Updates, str | None]:
        """Fold what comes in, in ascending order of the client ids, until the attempt is over or stopped.

        That it is over is seen and made so under one hold of the lock: an answer comes before both or after both.
        """
        changed = self._exchange.changed
        while True:
            with changed:
                while not (ready := self._ready(attempt)):
                    now = monotonic()
                    if self._rounds.attempt_over(now, stopping=self._exchange.stopping is not None):
                        return self._close(attempt)
                    left = attempt.deadline - now
                    # Past the deadline only an answer that is being recorded is waited for; its thread notifies.
                    changed.wait(left if left > 0 else RECORDING_WAIT)
            for seat, submission in ready:
                self._fold(seat, submission)

    def _ready(self, attempt: Attempt) -> list[tuple[Seat, Submission]]:
        """Take the updates whose turn it is: none with a smaller id can come before them any more.

        A client that left may still have an upload on the way, so while the attempt runs it is passed only with its
        answer.
        """
        updates, ready = self._exchange.updates, []
        for seat in attempt.seats.values():
            if seat.client_id in updates.taken or seat.answer == "rejected":
                continue
            submission = updates.take(seat)
            if submission is None:
                break
            ready.append((seat, submission))
        return ready

    def _fold(self, seat: Seat, submission: Submission) -> None:
        self._committer.add(submission.tensors, seat.data_size)
        if self._committer.streams:
            submission.tensors = {}
            submission.release()

    def _close(self, attempt: Attempt) -> tuple[list[Result], Updates, str | None]:
        """From here on answers are late. Returns how the seats ended, their updates, and who stopped the run."""
        exchange = self._exchange
        with exchange.changed:
            results = self._rounds.end_attempt(stopped=exchange.stopping is not None)
            # Where we failed, an answer may still be on its way into the record, and what ends an attempt comes after.
            exchange.changed.wait_for(lambda: attempt.recording == 0, RECORDING_WAIT)
            updates, exchange.updates = exchange.updates, Updates()
            return results, updates, exchange.stopping

    def _commit(self, attempt: Attempt, results: list[Result], accepted: list[Seat], updates: Updates) -> None:
        ended = monotonic()
        self.due = ended + COMMIT_SECONDS
        for seat in accepted:  # in the order of the ids, as _ready began
            submission = updates.take(seat)
            if submission is not None:
                self._fold(seat, submission)
        self._committer.commit(
            attempt=attempt,
            ended_at=ended,
            results=results,
            measured=[(seat.data_size, updates.taken[seat.client_id].metrics) for seat in accepted],
        )
        self._exchange.global_state = self._committer.model

    def _abort(self, attempt: Attempt, results: list[Result], reason: str) -> None:
        self._bus.emit(aborted(attempt, reason, monotonic(), results))

    def _fail(self, attempt: Attempt, results: list[Result], updates: Updates) -> None:
        """Something of ours failed in the middle of an attempt: its updates are decided all the same."""
        updates.release()
        with contextlib.suppress(StoreError):  # then it is the record that failed; the next server closes the attempt
            self._abort(attempt, results, "failed")

    def _end(self, status: RunStatus, detail: str | None) -> None:
        """Put on record how the run ended, then let the sessions say <FINISHED>."""
        self.due = None
        try:
            self._enter(status, detail)
            self._bus.emit(
                events.RunEnded(run_id=self._committer.run_id, status=status, final_digest=self._committer.digest)
            )
            self._bus.flush()
            self._committer.prune()
        except FlserverError as error:
            self.error, status = self.error or error, "failed"
        self.status = status
        self._exchange.finish(Farewell("finished" if status == "completed" else "stopped"))

    def _enter(self, state: RunState, detail: str | None) -> None:
        if state != self.state:
            self._bus.emit(events.StateChanged(state=state, detail=detail))
        self.state = state

    def _check_stop(self) -> None:
        if self._exchange.stopping is not None:
            raise Interrupted(self._exchange.stopping)


def _in_wall_clock(at: float) -> str:
    return utc_text(utc_timestamp(utc_now()) + at - monotonic())
