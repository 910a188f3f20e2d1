"""One node's place at the desk: what belongs to it, and what is done with what it says.

Two things are kept apart. What is asked is answered at once, on the thread that brings the batch. What goes on record,
and what may only be so when that is on record, follows in its order, and may have to wait for the recorder.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flserver.clock import monotonic
from flserver.errors import FlserverError, StoreError
from flserver.events import ConnectionOpened, Event, LostUpdate, NodeEnded, NodeStarted, StrangersSummed
from flserver.events.bus import Recorder
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.asking import error_of, failure_of
from flserver.ingest.batches import Item, from_bytes
from flserver.ingest.flusher import Flusher
from flserver.ingest.held import Held
from flserver.ingest.ids import Ids
from flserver.ingest.in_order import InOrder
from flserver.ingest.losses import OnRecord
from flserver.ingest.outbox import Outbox
from flserver.ingest.seated import Seated
from flserver.rounds.exchange import Exchange
from flserver.rounds.seats import SentModel, Upload, Verdict
from flserver.store.node_chain import NodeChain
from flserver.store.payloads import from_payload, to_payload

if TYPE_CHECKING:
    from flserver.ingest.desk import Desk

logger = logging.getLogger(__name__)

IN_ORDER = frozenset((t.Emitted, t.OnRecord, t.Confirmed, t.Withdrawn, t.Failed, t.Closed, q.Flush))
ORDERLY = ""  # why a node is gone that was asked to be


class Place:
    """What belongs to the node ``name``, which is ``heard`` once it has said anything, and ``leaving`` once nothing
    more comes. ``ready``, ``layout`` and ``has_model`` are the desk's; ``cut`` ends the line of one that is gone, and
    may not know, and ``explain`` says more of why it is, where somebody knows. Its first event is ``started``."""

    def __init__(
        self,
        name: str,
        desk: "Desk",
        exchange: Exchange,
        recorder: Recorder,
        flusher: Flusher,
        ids: Ids,
        started: NodeStarted | None = None,
    ) -> None:
        self.name, self._desk, self._exchange, self._recorder = name, desk, exchange, recorder
        self.started, self.slot = started, 0 if started is None else started.slot
        self._flusher, self._ids = flusher, ids
        self.outbox = Outbox()
        self.held = Held(exchange, self.outbox)
        self._seated = Seated(exchange, self.outbox, desk.know)
        self.ready = self.has_model = self.leaving = self.heard = False
        self.layout: str | None = None
        self.cut: Callable[[], None] = lambda: None
        self.explain: Callable[[str], str] = lambda why: why
        self._lock = threading.Lock()  # guards the two below
        self._accepted: dict[int, float] = {}
        self.ending = False
        self.chain = NodeChain()  # of the events that it gave
        self._on_record, self._failed, self._broken = OnRecord(), False, False  # of whose turn it is to record
        if started is not None:  # before anything that it says
            try:
                self._say(started)
            except StoreError as error:
                self._fail(error)
        self._in_order = InOrder(f"ingest-{name}", self._record, self._end)

    # --- the line ----------------------------------------------------------------------------------------------------

    def take(self, timeout: float) -> bytes:
        """What the desk has to say to the node; empty where that is nothing within ``timeout`` seconds."""
        return self.outbox.take(timeout)

    def give(self, batch: bytes | memoryview) -> None:
        """What the node says."""
        self.heard = True
        answers, in_order = list[Item](), list[Item]()
        for item in from_bytes(batch):
            if type(item.said) in IN_ORDER:
                self.leaving = self.leaving or isinstance(item.said, t.Closed)
                in_order.append(item)
            elif item.number is None:
                if type(item.said) is t.GaveUp:  # it ends behind what was said before
                    self._in_order.put(in_order)
                    in_order = []
                self._hear(item.said)
            else:
                answers.append(Item(self._answer(item.said), item.number))
        if answers:
            self.outbox.put_all(answers)
        if in_order:
            self._in_order.put(in_order)

    def gone(self, why: str) -> None:
        """The node's line ended. May be called again, and by any thread."""
        with self._lock:
            if self.ending:
                return
            self.ending = True
        self._seated.leave_all()
        self.outbox.close(keep=self.leaving)
        self._in_order.close(why)
        if not self.leaving:
            self.cut()

    def join(self) -> None:
        """Wait for the end of the thread, after ``gone``."""
        self._in_order.join()

    @property
    def open_connections(self) -> int:
        """How many the node has."""
        with self._lock:
            return len(self._accepted)

    # --- questions ---------------------------------------------------------------------------------------------------

    def _answer(self, question: object) -> q.Answer:
        try:
            return self._answered(question)
        except Exception as error:
            if not isinstance(error, FlserverError):  # a defect of ours costs the one who asks
                logger.exception("%s could not be answered", type(question).__name__)
            return failure_of(error)

    def _answered(self, question: object) -> q.Answer:
        match question:
            case q.Offer():
                base_round = self._desk.base_round
                if None not in (offered := question.base_round, base_round) and offered != base_round:
                    return q.Stale()
                return self.held.offer(question, self._accepted_at(question.connection))
            case q.Register(client_id, data_size, peer, holds):
                held = (
                    None
                    if holds is None
                    else SentModel(holds.round, holds.attempt, inherited=True, digest=holds.digest)
                )
                return q.Registered(self._seated.register(client_id, data_size, peer, held))
            case q.HandOver(sent):
                self._seated.hand_over(sent)
                return q.Done()
            case q.Reject(update_id, rejection):
                return self.held.reject(update_id, rejection)
            case q.ExpectUpload(peer):
                share = self._exchange.expect_upload(peer)
                return q.Expected(share.owner, share.clients)
            case q.Sender(client, peer):
                return q.SentBy(*self._exchange.sender(client, peer))
            case q.NotAsked(peer, connection):
                return q.SentBy(self._exchange.not_asked(peer, self._accepted_at(connection)))
            case q.CheckUpload(client_id, peer):
                self._exchange.check_upload(client_id, peer)
                return q.Done()
            case q.MoreIds(kind):
                return self._ids.block(kind)
        raise AssertionError(f"nobody asks {question}")

    def _accepted_at(self, connection: int) -> float:
        with self._lock:
            return self._accepted.get(connection, -1.0)  # one that nobody heard of is older than all models

    # --- facts -------------------------------------------------------------------------------------------------------

    def _hear(self, said: object) -> None:
        match said:
            case t.Accepted(connection):
                with self._lock:
                    self._accepted[connection] = monotonic()
            case t.Ended(connection):
                with self._lock:
                    self._accepted.pop(connection, None)
            case t.Left(registration, reason):
                self._seated.leave(registration, reason)
            case t.TakenBack(sent):
                self._seated.take_back(sent)
            case t.FullySent(sent):
                self._seated.fully_sent(sent)
            case t.Settled() | t.Given():
                if not self.ending:
                    self.held.given(said) if isinstance(said, t.Settled) else self.held.came(said)
                    self._desk.settled()
            case t.Ready(layout):
                self._desk.be_ready(self, layout)
            case t.GaveUp(why):
                self.gone(why)
            case _:
                raise AssertionError(f"no node says {type(said).__name__}")

    # --- the record --------------------------------------------------------------------------------------------------

    def _record(self, items: Sequence[Item], waits: bool) -> int:
        """Put on record what the node says, and do what may only be done then: up to what has to be waited for, unless
        it ``waits``. How many were done."""
        done = events = size = 0
        try:
            for item in items:
                if self._broken:
                    return len(items)  # nothing of the node's that comes behind is what it says
                if isinstance(item.said, t.Emitted):
                    if not waits and self._recorder.crowded:
                        break
                    self._emit(item.said)
                    events, size = events + 1, size + len(item.said.payload)
                else:
                    self._follow(item)
                done += 1
        except Exception as error:  # a defect costs the node that meets it: nobody waits for it any more
            logger.exception("what %s said could not be put on record", self.name)
            self._broken, done = True, len(items)
            self.gone(f"what it said could not be put on record: {error!r}")
        if events:
            self.outbox.put(t.Room(events, size))
        return done

    def _emit(self, emitted: t.Emitted) -> None:
        if self._failed:
            return
        try:
            event, payload = from_payload(emitted.kind, emitted.payload), emitted.payload
            if isinstance(event, ConnectionOpened | StrangersSummed):
                event = replace(event, node=self.name)
                payload = to_payload(event)
            self._recorder.emit(event, first=emitted.first, payload=payload)
            self.chain.add(emitted.kind, payload)
            self._on_record.note(event)
        except StoreError as error:
            self._fail(error)

    def _say(self, event: Event) -> None:
        """Put on record what is said of the node in its stead. Raises StoreError."""
        self._recorder.emit(event)
        self.chain.add(type(event).__name__, to_payload(event))

    def _fail(self, error: StoreError) -> None:
        self._failed = True
        self.outbox.put(t.RecordFailed(str(error)))

    def _follow(self, item: Item) -> None:
        match item.said:
            case q.Flush():
                assert item.number is not None
                self._flusher.ask(self.outbox, item.number)
            case t.OnRecord(registration):
                self._seated.confirm(registration)
            case t.Confirmed(update_id):
                self._on_record.decided(update_id)
                if self._failed:
                    self.held.withdraw(update_id)
                else:
                    self.held.confirm(item.said, self._desk.kept)
            case t.Withdrawn(update_id):
                self._on_record.decided(update_id)
                self.held.withdraw(update_id)
            case t.Failed(failure):
                self._exchange.fail(error_of(failure))
                self._desk.settled()  # nobody waits for what it was asked
            case t.Closed():
                self.gone(ORDERLY)

    def _end(self, why: str) -> None:
        """The node is gone: what it had ends, on record, and what it had folded is lost."""
        lost: list[tuple[Upload, Verdict]] = []
        try:
            held = self.held.ids
            lost = self.held.lose_all(self._desk.add_again)
            if why != ORDERLY:
                why = self.explain(why)
                for event in self._on_record.ends(self.name, self.slot or None, why, map(_lost, lost), held):
                    self._say(event)
            elif self.started is not None:
                self._say(NodeEnded(node=self.name, slot=self.slot))
        except StoreError as error:
            logger.debug("the end of node %s is not on record: %s", self.name, error)
        except Exception as error:  # the run may not count on a record that lacks it
            logger.exception("the end of node %s could not be put on record", self.name)
            self._exchange.fail(error)
        finally:
            self._exchange.losses_on_record(upload for upload, _ in lost)
            self._desk.over(self)


def _lost(one: tuple[Upload, Verdict]) -> LostUpdate:
    upload, verdict = one
    sent = verdict.answers
    assert sent is not None
    return LostUpdate(update_id=upload.update_id, client_id=upload.client_id, round=sent.round, attempt=sent.attempt)
