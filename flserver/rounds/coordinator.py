"""The round thread: it decides when an attempt starts and ends, folds what the sessions have not, and commits.

What sessions do reaches it through ``exchange.Exchange``; making a round of the updates is ``committer.Committer``'s.
Every fact that somebody outside can see the effect of is durable first.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from flserver import events
from flserver.clock import Deadline, monotonic, utc_at
from flserver.errors import FlserverError, StoreError, one_line
from flserver.events.bus import Recorder
from flserver.events.words import RunState, RunStatus
from flserver.rounds.advice import furthest, misses, model_at_fault, nodes_at_fault, way_back
from flserver.rounds.broadcast import Broadcasts
from flserver.rounds.committer import Committer, Implausible
from flserver.rounds.endings import Farewell, Interrupted
from flserver.rounds.exchange import Exchange
from flserver.rounds.joining import await_window
from flserver.rounds.outcomes import aborted, settled
from flserver.rounds.seats import Attempt, Seat
from flserver.rounds.updates import EndedAttempt, Ready
from flserver.rounds.waiting import Reminder
from flserver.settings import RoundPolicy

logger = logging.getLogger(__name__)

COMMIT_SECONDS = 600.0  # aggregating, evaluating and writing a large model; beyond it /healthz is worried


class Coordinator:
    """Runs a run's rounds, from its last committed one up to ``policy.num_rounds``, on a thread of its own.

    ``prepare`` is called first, for what rounds are made with, and ``on_end`` last. ``attempts_before`` has how many
    earlier processes made at a round; ``go_back`` gives the command that starts anew from one. ``due`` is when
    (monotonic) it will have moved on, None while it waits without a deadline; ``error`` is what made the run fail.
    """

    def __init__(
        self,
        *,
        run_id: str,
        process_id: int,
        policy: RoundPolicy,
        exchange: Exchange,
        prepare: Callable[[], tuple[Committer, Broadcasts]],
        recorder: Recorder,
        attempts_before: Mapping[int, int],
        go_back: Callable[[int], str],
        on_end: Callable[[], None],
    ) -> None:
        self._run_id, self._process_id = run_id, process_id
        self._policy, self._exchange = policy, exchange
        self._prepare = prepare
        self._recorder = recorder
        self._attempts = dict(attempts_before)
        self._go_back = go_back
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="coordinator")
        self.due: float | None = None
        self.state: RunState = "joining"
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin on the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the run has ended."""
        self._thread.join()

    @property
    def seconds_left(self) -> float | None:
        """How long the coordinator may go on with what it does now; None where that has no end."""
        ends = [at for at in (self.due, self._exchange.stops_at) if at is not None]
        return max(0.0, min(ends) - monotonic()) if ends else None

    @property
    def ended(self) -> bool:
        """Whether the run has come to one of its ends."""
        return self.state in ("completed", "interrupted", "failed")

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._committer, self._buffers = self._prepare()
            if self._exchange.model.round < 0:
                number = self._next_attempt(0)
                self._exchange.replace_model(self._committer.commit_initial(self._exchange.model.state, number))
            if self._exchange.model.round < self._policy.num_rounds:
                self._join_window()
            for round in range(self._exchange.model.round + 1, self._policy.num_rounds + 1):
                self._run_round(round)
        except Interrupted as interruption:
            self._await_trainers()
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
        await_window(self._exchange, self._recorder, self._remind, self._policy)
        min_updates, absent = self._exchange.close_window()
        self._recorder.emit(events.QuorumSettled(min_updates=min_updates, absent=absent))

    def _run_round(self, round: int) -> None:
        """Make attempts at one round until it commits. Raises Interrupted."""
        reasons: list[str] = []
        self._with_nodes = 0
        while (why := self._attempt(round)) is not None:
            reasons.append(why)
            if len(reasons) >= self._policy.round_attempts:
                raise Interrupted(f"round {round} {misses(reasons, self._with_nodes)}")

    def _attempt(self, round: int) -> str | None:
        """Make one attempt; why it was not committed, as words for a count. Raises Interrupted when it was aborted."""
        self._await_participants()
        attempt = self._start(round)
        try:
            self._open(attempt)
            ended = self._collect(attempt)
        except BaseException:
            ended = self._exchange.close_attempt(attempt)
            self._fail(attempt, ended, ended.suspects)
            raise
        if not ended.commits:
            return self._miss(attempt, ended)
        try:
            if not self._commit(attempt, ended):
                return self._miss(attempt, ended)
        except Implausible as error:
            return self._leave_out(attempt, ended, error)
        except BaseException:
            self._fail(attempt, ended)
            raise
        ended.updates.release()
        return None

    def _await_participants(self) -> None:
        """Wait until a quorum can be sent a model. Raises Interrupted after ``rejoin_timeout``."""
        if self._exchange.quorum_possible():
            return
        left_out = self._exchange.waiting.left_out
        self._enter("waiting", f"fewer participants than --min-updates can be sent a model{left_out}")
        reminder, deadline = Reminder(monotonic()), Deadline.after(self._policy.rejoin_timeout)
        self.due = deadline.at
        while not self._exchange.await_quorum(deadline, reminder.at):
            self._remind(reminder)

    def _await_trainers(self) -> None:
        """Wait, within the grace of a stop, for those who still train."""
        self.due, reminder = self._exchange.stops_at, Reminder(monotonic())
        while not self._exchange.await_trainers(reminder.at):
            self._remind(reminder)

    def _next_attempt(self, round: int) -> int:
        number = self._attempts[round] = self._attempts.get(round, 0) + 1
        return number

    def _start(self, round: int) -> Attempt:
        """Start an attempt, on record; ``_open`` makes it visible to the sessions."""
        self._enter("running", None)
        attempt = self._exchange.begin(round, self._next_attempt(round))
        self.due = attempt.deadline
        self._recorder.emit(
            events.AttemptStarted(
                round=round,
                attempt=attempt.number,
                process_id=self._process_id,
                clients=tuple(attempt.seats),
                not_sent=tuple(attempt.not_sent),
                why_not_sent=tuple(attempt.not_sent.values()),
                deadline_at=utc_at(attempt.deadline),
                base_digest=self._exchange.model.digest,
            )
        )
        return attempt

    def _open(self, attempt: Attempt) -> None:
        """Let the sessions send the model, once everything it rests on is durable (promise 2)."""
        model = self._exchange.model
        broadcast = self._buffers.render(model.state)
        self._committer.begin(model)
        self._recorder.flush()
        self._buffers.announce(attempt, model)
        self._exchange.publish(broadcast)
        self._committer.prune()

    def _collect(self, attempt: Attempt) -> EndedAttempt:
        """Until the attempt is over or stopped, fold what is not folded as it arrives: suspects that count after all,
        and where a strategy has an order all updates, in ascending order of the client ids."""
        reminder = Reminder(attempt.started_at)
        while not isinstance(taken := self._exchange.take_ready(attempt, reminder.at), EndedAttempt):
            self._fold(taken)
            self._remind(reminder, attempt.round)
        for event in settled(attempt, taken.suspects):
            self._recorder.emit(event)
        return taken

    def _fold(self, ready: Ready) -> None:
        for seat, submission in ready:
            submission.add_to(self._committer, seat.counted_size)

    def _commit(self, attempt: Attempt, ended: EndedAttempt) -> bool:
        """Make the round; False where too few of its updates are left when all are brought together. Raises Implausible
        where its model cannot be meant."""
        ended_at = monotonic()
        self.due = ended_at + COMMIT_SECONDS
        self._fold(ended.updates.take_rest(ended.accepted))
        self._committer.gather(attempt, ended)
        self._exchange.check_failure()
        self._exchange.seal(attempt)
        if not ended.commits:
            return False
        model = self._committer.commit(self._exchange.model, attempt, ended, ended_at)
        self._exchange.replace_model(model, ended.accepted)
        return True

    def _miss(self, attempt: Attempt, ended: EndedAttempt) -> str:
        """Too few updates count, or somebody stopped the run."""
        model, nodes = model_at_fault(ended.results), nodes_at_fault(ended.results)
        self._with_nodes += nodes is not None
        detail = None if ended.stopped_by else model or nodes
        self._abort(attempt, ended, ended.stopped_by or "quorum", detail, model=model is not None)
        self._exchange.check_stop()
        return "missed its quorum"

    def _leave_out(self, attempt: Attempt, ended: EndedAttempt, why: Implausible) -> str:
        """The round is tried again without the client whose update is the furthest."""
        client = furthest(ended.accepted).client_id
        self._exchange.leave_out(client)
        detail = f"{why}; client {client}, whose update is the furthest, is left out of the next attempt"
        self._abort(attempt, ended, "implausible", detail)
        self._exchange.check_stop()
        return f"would have been an implausible model ({why})"

    def _abort(
        self, attempt: Attempt, ended: EndedAttempt, reason: str, detail: str | None = None, *, model: bool = True
    ) -> None:
        self._exchange.seal(attempt)
        self._committer.forget(ended.updates)
        self._recorder.emit(aborted(attempt, reason, monotonic(), ended.results, detail))
        if detail is not None and model:  # then it may be the model that is at fault
            logger.warning("%s", way_back(self._committer.made, self._exchange.model.round, self._go_back))

    def _fail(self, attempt: Attempt, ended: EndedAttempt, suspects: Sequence[Seat] = ()) -> None:
        """Something of ours failed in the middle of an attempt: its updates are decided all the same."""
        with contextlib.suppress(StoreError):  # then it is the record that failed; the next server closes the attempt
            for event in settled(attempt, suspects):
                self._recorder.emit(event)
            self._abort(attempt, ended, "failed")

    def _end(self, status: RunStatus, detail: str | None) -> None:
        """Put on record how the run ended, then let the sessions say goodbye."""
        self.due = None
        try:
            self._enter(status, detail)
            if self.error is None:  # first: nobody comes back to a run that has ended, to delete what should not stay
                self._committer.prune()
            digest = self._exchange.model.digest
            self._recorder.emit(events.RunEnded(run_id=self._run_id, status=status, final_digest=digest))
            self._recorder.flush()
        except BaseException as error:
            if not isinstance(error, FlserverError):
                logger.exception("the end of the run failed")
            self.error, self.state = self.error or error, "failed"
        self._exchange.finish(Farewell("finished" if self.state == "completed" else "stopped"))

    def _remind(self, reminder: Reminder, round: int | None = None) -> None:
        """Say for whom the run waits, where it is time to."""
        now = monotonic()
        if not reminder.due(now) or (waiting := self._exchange.waiting).awaited is None:
            return
        self._recorder.emit(
            events.Waited(
                awaited=waiting.awaited,
                round=round,
                seconds=now - reminder.since,
                seconds_left=self.seconds_left,
                answered=waiting.answered,
                missing=waiting.missing,
                clients=waiting.names,
            )
        )

    def _enter(self, state: RunState, detail: str | None) -> None:
        if state != self.state:
            self._recorder.emit(events.StateChanged(state=state, detail=detail))
        self.state = state
