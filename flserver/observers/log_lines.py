"""Events as lines for an operator: what is worth one, and how it reads."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

from flserver import events as e
from flserver.events.words import ORDERLY_REASONS, RunState
from flserver.text import printable, three_decimals

MOST_NAMES = 10  # clients that one line names; the others are counted
WORRYING: Final[tuple[RunState, ...]] = ("waiting", "interrupted", "failed")

MIN_UPDATES = {
    1: "; 1 by default where one client alone was there",
    2: "; 2 by default, so that no client's own model is sent to all",
}
TELLING = "who can read them can try to tell what a client trained on"
Line = tuple[int, str]
"""A logging level and a text that is safe to print."""


class Lines:
    """Turns events into lines, in the order of the record. Not thread-safe: whoever owns it locks."""

    def __init__(self) -> None:
        self._num_rounds: int | None = None
        self._joining = False
        self._roster: dict[str, str] = {}  # clients for people, by id
        self._absent: dict[str, str] = {}  # those of them that are not there
        self._peers: dict[int, e.ConnectionOpened | e.PeerIdentified] = {}  # who told of open connections, by id

    def of(self, event: e.Event) -> Line | None:
        """The line of ``event``, or None where it is not worth one."""
        write = self._writers.get(type(event))
        return write(self, event) if write else None

    def _run_started(self, event: e.RunStarted) -> Line:
        self._num_rounds = event.num_rounds
        called = "" if event.name == event.run_id else f" ({printable(event.name)})"
        parent = "" if event.parent_run_id is None else f", from round {event.parent_round} of {event.parent_run_id}"
        rounds = counted(event.num_rounds, "round")
        return logging.INFO, f"run {printable(event.run_id)}{called} started: {rounds}{printable(parent)}"

    def _run_resumed(self, event: e.RunResumed) -> Line:
        self._num_rounds = event.num_rounds
        start = "no committed round" if event.from_round is None else f"round {event.from_round}"
        return logging.INFO, f"run {printable(event.run_id)} resumed from {start} of {event.num_rounds}"

    def _run_left_over(self, event: e.RunLeftOver) -> Line:
        return (
            logging.WARNING,
            f"run {printable(event.run_id)} had no end on record, as after a kill or a crash: interrupted",
        )

    def _run_ended(self, event: e.RunEnded) -> Line:
        level = logging.INFO if event.status == "completed" else logging.WARNING
        digest = f", model {event.final_digest}" if event.final_digest else ""
        return level, f"run {printable(event.run_id)} {event.status}{digest}"

    def _waiting(self) -> str:
        """Whom the join window is open for, where there is a roster."""
        return _named("not there yet", list(self._absent.values()) if self._joining else [])

    def _take_roster(self, members: Sequence[Mapping[str, Any]]) -> None:
        there = self._roster.keys() - self._absent.keys()
        self._roster = {
            m["client_id"]: f"{m['client_id']} ({m['label']})" if m["label"] else m["client_id"] for m in members
        }
        self._absent = {name: text for name, text in self._roster.items() if name not in there}

    def _state_changed(self, event: e.StateChanged) -> Line | None:
        self._joining = event.state == "joining"
        if event.state == "completed":
            return None  # RunEnded has a line with more in it
        level = logging.WARNING if event.state in WORRYING else logging.INFO
        return level, f"state: {event.state}{_because(event.detail)}{'' if event.detail else self._waiting()}"

    def _waited(self, event: e.Waited) -> Line:
        seconds = f"{event.seconds:,.0f} s"
        match event.awaited:
            case "updates":
                begin = f"{self._round(event.round or 0)} waits for {seconds}: "
                begin += f"{event.answered} of {event.answered + event.missing} answered"
            case "participants":
                begin = f"no round for {seconds}: {event.answered} can be sent a model, {event.missing} more needed"
            case "registrations":
                begin = f"{seconds} past the join window's end: {event.answered} there, {event.missing} more needed"
        left = "no deadline" if event.seconds_left is None else f"{event.seconds_left:,.0f} s to the deadline"
        return logging.INFO, f"{begin}{_named('not yet', event.clients)}; {left}"

    def _quorum_settled(self, event: e.QuorumSettled) -> Line:
        why = MIN_UPDATES.get(event.min_updates, "")
        needed = f"a round needs {counted(event.min_updates, 'update')} (--min-updates{why})"
        if event.absent:
            return logging.WARNING, f"{needed}; on the roster and not there: {printable(', '.join(event.absent))}"
        return logging.INFO, needed

    def _operator_acted(self, event: e.OperatorActed) -> Line | None:
        detail = event.detail
        if detail.get("clients"):
            self._take_roster(detail["clients"])
        match event.kind:
            case "reload" if "refused" in detail:
                return None  # the one who noticed has said so
            case "override":
                before = "not set" if detail["before"] is None else detail["before"]
                return logging.INFO, printable(f"{detail['setting']} is now {detail['now']}, was {before}")
            case "upgrade":
                return logging.INFO, printable(f"database upgraded from {detail['before']}; copy: {detail['copy']}")
            case "keep-updates":
                what = "all of them" if detail["rounds"] == "all" else f"of the newest {detail['rounds']} rounds"
                return logging.WARNING, f"accepted updates are kept beside the checkpoints ({what}): {TELLING}"
        return None  # the start, the resumption and the stop have lines of their own

    def _connection_opened(self, event: e.ConnectionOpened) -> None:
        self._peers[event.connection_id] = event

    def _peer_identified(self, event: e.PeerIdentified) -> None:
        self._peers[event.connection_id] = event

    def _peer(self, connection_id: int) -> str:
        """Whose connection it is."""
        told = self._peers.get(connection_id)
        if told is None:
            return "unknown peer"
        proxy = told.proxy_host if isinstance(told, e.PeerIdentified) else None
        via = "" if proxy is None else f" through {printable(proxy)}"
        return f"{printable(told.peer_host)}:{told.peer_port}{via}"

    def _connection_closed(self, event: e.ConnectionClosed) -> None:
        self._peers.pop(event.connection_id, None)

    def _strangers_summed(self, event: e.StrangersSummed) -> Line | None:
        if not event.connections:
            return None  # what was sent to some that have a line already
        came = f"{counted(event.connections, 'connection')} of strangers from {printable(event.prefix)}"
        said = f", {counted(event.messages, 'message')}" if event.messages else ""
        return logging.WARNING, f"summed: {came} in the minute from {event.minute[11:16]} ({event.reason}{said})"

    def _message(self, event: e.MessageReceived | e.MessageSent) -> Line | None:
        if event.outcome == "ok":
            return None
        peer = self._peer(event.connection_id)
        who = f"client {printable(event.client_id)} at {peer}" if event.client_id is not None else peer
        way = "from" if isinstance(event, e.MessageReceived) else "to"
        what = printable(event.header) if event.header is not None else "message"
        return logging.WARNING, f"{what} {way} {who} {event.outcome}" + _because(event.reason)

    def _client_registered(self, event: e.ClientRegistered) -> Line:
        verb = "rejoined" if event.rejoined else "registered"
        self._absent.pop(event.client_id, None)
        line = f"client {printable(event.client_id)} {verb} ({counted(event.data_size, 'sample')})"
        return logging.INFO, line + self._waiting()

    def _client_left(self, event: e.ClientLeft) -> Line:
        if event.client_id in self._roster:
            self._absent[event.client_id] = self._roster[event.client_id]
        level = logging.INFO if event.reason in ORDERLY_REASONS else logging.WARNING
        return level, f"client {printable(event.client_id)} left: {printable(event.reason)}"

    def _update_received(self, event: e.UpdateReceived) -> Line | None:
        if event.decision is None:
            return None
        return logging.WARNING, f"update of client {printable(event.client_id)} {event.decision}" + _because(
            event.reason
        )

    def _suspect_rejected(self, event: e.SuspectRejected) -> Line:
        return logging.WARNING, f"update of client {printable(event.client_id)} rejected" + _because(event.reason)

    def _node_lost(self, event: e.NodeLost) -> Line:
        lost = f"; {counted(len(event.updates), 'update')} lost with it" if event.updates else ""
        return logging.ERROR, f"{event.node} is gone: {event.reason}{lost}"

    def _suspects_count(self, event: e.SuspectsCount) -> Line:
        who = _named("they count", event.clients)
        share = f"{len(event.clients)} of {counted(event.there, 'client')}"
        return (
            logging.WARNING,
            f"{self._round(event.round)}: {share} sent too large an update{_because(event.reason)}{who}",
        )

    def _attempt_started(self, event: e.AttemptStarted) -> Line | None:
        if not event.clients:
            return None  # round 0 trains nobody
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        return logging.INFO, f"{self._round(event.round)}{again} started with {counted(len(event.clients), 'client')}"

    def _round_committed(self, event: e.RoundCommitted) -> Line:
        accepted = sum(outcome.update_id is not None for outcome in event.outcomes)
        facts = [counted(accepted, "update") if event.round else "the initial model"]
        if event.loss is not None:
            facts.append(f"loss {three_decimals(event.loss)}")
        if event.accuracy is not None:
            facts.append(f"accuracy {three_decimals(event.accuracy)}")
        facts.append(event.checkpoint.rpartition("/")[2])
        line = f"{self._round(event.round)} committed in {event.seconds:.2f} s: {', '.join(facts)}"
        return logging.INFO, line + _late(event.outcomes)

    def _weight_concentrated(self, event: e.WeightConcentrated) -> Line:
        who, has = printable(event.owner), "has"
        if len(event.clients) > 1:
            who, has = f"{counted(len(event.clients), 'client')} of {who}", "have"
        what = f"{who} {has} {event.weight:.7g} of the weight"
        return logging.WARNING, f"{self._round(event.round)}: {what}; --max-weight-share limits that"

    def _attempt_aborted(self, event: e.AttemptAborted) -> Line:
        what = f"{self._round(event.round)}, attempt {event.attempt}"
        return (
            logging.WARNING,
            f"{what} aborted after {event.seconds:.2f} s{_because(event.reason)}{_because(event.detail)}"
            + _late(event.outcomes),
        )

    def _round(self, number: int) -> str:
        return f"round {number}" if self._num_rounds is None else f"round {number}/{self._num_rounds}"

    _writers: ClassVar[Mapping[type[e.Event], Callable[[Any, Any], Line | None]]] = {
        e.RunStarted: _run_started,
        e.RunResumed: _run_resumed,
        e.RunLeftOver: _run_left_over,
        e.RunEnded: _run_ended,
        e.StateChanged: _state_changed,
        e.Waited: _waited,
        e.QuorumSettled: _quorum_settled,
        e.OperatorActed: _operator_acted,
        e.ConnectionOpened: _connection_opened,
        e.PeerIdentified: _peer_identified,
        e.ConnectionClosed: _connection_closed,
        e.StrangersSummed: _strangers_summed,
        e.MessageReceived: _message,
        e.MessageSent: _message,
        e.ClientRegistered: _client_registered,
        e.ClientLeft: _client_left,
        e.UpdateReceived: _update_received,
        e.SuspectRejected: _suspect_rejected,
        e.NodeLost: _node_lost,
        e.SuspectsCount: _suspects_count,
        e.AttemptStarted: _attempt_started,
        e.RoundCommitted: _round_committed,
        e.AttemptAborted: _attempt_aborted,
        e.WeightConcentrated: _weight_concentrated,
    }


def _late(outcomes: Sequence[e.ClientOutcome]) -> str:
    """Who was waited for until the deadline."""
    return _named("not in time", [o.client_id for o in outcomes if o.participation == "timed_out"])


def _named(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"; {what}: {', '.join(map(printable, names[:MOST_NAMES]))}{more}" if names else ""


def _because(reason: str | None) -> str:
    return f": {printable(reason)}" if reason else ""


def counted(number: int, thing: str) -> str:
    """``1 client``, ``2 clients``."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
