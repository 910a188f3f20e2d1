"""An ingest node, put together: the ``network/`` room whole, over a line to the coordinator's desk."""

import logging
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flserver.errors import FlserverError, UsageError, one_line
from flserver.identity.roster import Member, Roster
from flserver.ingest import told as t
from flserver.ingest.asking import Asking
from flserver.ingest.batches import BatchError, from_bytes, layout_digest, of_state, raw_of
from flserver.ingest.door import NodeDoor
from flserver.ingest.faults import said_of
from flserver.ingest.folding import Layout, NodeFolding
from flserver.ingest.ids import NodeIds
from flserver.ingest.making import Making
from flserver.ingest.models import NodeModels
from flserver.ingest.outbox import Outbox
from flserver.ingest.recording import NodeRecorder
from flserver.network.admission import Admission
from flserver.network.capacity import Capacity
from flserver.network.context import Context, Limits
from flserver.network.decoding import Decoding
from flserver.network.inherited import InheritedTrainer
from flserver.network.listener import Listener
from flserver.network.memory import ReceiveMemory
from flserver.network.server import Server
from flserver.network.strangers import Strangers
from flserver.rounds.broadcast import Ring, Send, call
from flserver.settings import ServerSettings
from flserver.wire.template import Template

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.aggregation import State, Strategy
    from flserver.models.kept import Kept

logger = logging.getLogger(__name__)

NOTHING: tuple[memoryview, ...] = ()


class Node:
    """One node of a run. ``start`` lets trainers in; ``prepared`` is to follow from whoever makes the model's layout.

    ``roster`` is the server's; ``limits`` and ``capacity`` are what follows from the settings on this machine
    (``process.resources``); ``receive_memory`` (bytes) is this node's part.
    """

    def __init__(
        self,
        settings: ServerSettings,
        listener: Listener,
        *,
        run_id: str,
        roster: Roster | None = None,
        limits: Limits,
        capacity: Capacity,
        receive_memory: int,
    ) -> None:
        self.asking = Asking()
        self._admission = Admission(settings, roster)
        self._recorder = NodeRecorder(self.asking)
        self._memory = ReceiveMemory(receive_memory, limits.usual, settings.store.spool_dir)
        self._door = NodeDoor(self.asking, self._admission.identity)
        self._folding = NodeFolding(self.asking, lambda: self._door.model)
        self.making = Making(self._folding)
        self._context = Context(
            run_id=run_id,
            goodbye=settings.network.goodbye,
            exchange=self._door,
            folding=self._folding,
            recorder=self._recorder,
            strangers=Strangers(self._recorder, settings.network.strangers_per_minute),
            memory=self._memory,
            decoding=Decoding(self._memory, limits.weight),
            limits=limits,
            preamble=self._admission.preamble,
            identity=self._admission.identity,
            tied={},
            buffers=(),
            accept_dtypes=settings.network.accept_dtypes,
            message_ids=NodeIds(self.asking, "message_id"),
            update_ids=NodeIds(self.asking, "update_id"),
            known=threading.Event(),
        )
        self._server = Server(listener, self._context, NodeIds(self.asking, "connection_id"), capacity)
        self._models = NodeModels()
        self._learn: Callable[[], None] = lambda: None
        self._to_send: queue.SimpleQueue[tuple[t.Ticket | t.Goodbye, Ring, Send] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, name="node-sender")
        self._closing = threading.Lock()  # guards the next
        self._closer: threading.Thread | None = None
        self._gave_up = False
        self._ended = threading.Event()

    def start(self, inherited: Collection[InheritedTrainer] = ()) -> None:
        """Let trainers in, and go on with those that are ``inherited``."""
        self._sender.start()
        self._server.start(inherited)

    def prepared(
        self,
        layout: "State",
        template: Template,
        strategy: "Strategy",
        limits: Limits,
        tied: Layout,
        kept: "Kept | None" = None,
    ) -> None:
        """The model's layout is known, as it goes on the wire, how it is averaged, and what one connection may use
        from here on; its numbers come by the line. ``kept`` is where updates are kept, if they are."""
        strategy.scratch = self._memory.scratch
        self._models.prepare(layout, template)
        self._folding.strategy, self._folding.layout, self._folding.kept = strategy, tied, kept
        self._learn = lambda: self._context.learn(limits, tied.tied, tied.buffers)
        self.asking.tell(t.Ready(layout_digest(layout, tied.tied, tied.buffers)))

    # --- the line ----------------------------------------------------------------------------------------------------

    @property
    def outbox(self) -> Outbox:
        """What the node has to say."""
        return self.asking.outbox

    def take(self, timeout: float) -> bytes:
        """What the node has to say; empty where nothing comes in ``timeout`` seconds."""
        return self.asking.outbox.take(timeout)

    def give(self, batch: bytes | memoryview) -> None:
        """What the desk says."""
        for item in from_bytes(batch):
            if item.number is not None:
                self.asking.answered(item.number, item.said)  # type: ignore[arg-type]
                continue
            if not self._gave_up:  # what follows rests on what could not be done
                self._do(item.said)

    def model(self, number: int, blobs: Sequence[memoryview]) -> None:
        """A model's bytes, where they do not come in a batch; before or after its number does."""
        self._models.came(number, blobs)

    def lost(self) -> None:
        """The line has ended: nobody can be let in, or told anything, so all connections end."""
        self._recorder.fail()
        self.asking.lost()
        self._begin_close(0.0)

    def hand_on(self, grace: float) -> list[InheritedTrainer]:
        """The server is gone, and the run's next one is there: end, but for the connections of trainers that nothing is
        under way with, which are returned. Others have ``grace`` seconds."""
        self._context.hands_on = True
        self._recorder.fail()
        self.asking.lost()
        self._door.ring_all()
        self._begin_close(grace)
        self.join()
        return self._context.handed_on

    @property
    def answered(self) -> dict[str, tuple[int, int]]:
        """During which attempt, its round first, each client's last upload here was whole."""
        return self._folding.answered

    def _do(self, said: object) -> None:
        try:
            self._hear(said)
        except Exception as error:  # the coordinator's to raise
            if not isinstance(error, FlserverError):
                logger.exception("what the desk said could not be done")
            told = said_of(error)
            self._gave_up = isinstance(told, t.GaveUp)
            self.asking.tell(told)

    def _hear(self, said: object) -> None:
        match said:
            case t.Known():
                self._door.know(said)
            case t.Ticket() | t.Goodbye():
                if (bell := self._door.bring(said)) is not None:
                    self._to_send.put((said, *bell))
            case t.Room():
                self._recorder.taken(said.events, said.size)
            case t.Model():
                self._models.take(said)
            case t.Began():
                self._begin(said)
            case t.Fold():
                self._folding.fold(said.update_ids)
            case t.Drop():
                self._folding.drop(said.update_ids)
            case t.Settle():
                self._settle(said)
            case t.Give():
                given = self._folding.tensors(said.update_id)
                self.asking.tell(t.Given(said.update_id, raw_of({name: given[name] for name in self._models.layout})))
            case t.RecordFailed():
                self._recorder.fail(said.text)
            case t.Reload():
                self._reload(said.clients)
            case t.Close():
                self._begin_close(said.grace)
            case _:
                raise BatchError(f"no node is told {type(said).__name__}")

    def _reload(self, clients: Sequence[Member] | None) -> None:
        try:
            self._admission.reload(None if clients is None else Roster(clients))
        except UsageError as error:
            logger.error("SIGHUP: nothing is changed here: %s", one_line(error))
        else:
            logger.info("SIGHUP: read again here: %s", self._admission.summary)

    def _send(self) -> None:
        """Let sessions send what came for them, or send it for them where that takes no waiting."""
        while (bell := self._to_send.get()) is not None:
            ticket, ring, send = bell
            if isinstance(ticket, t.Ticket) and ticket.handed_over:
                call(ring, partial(self._send_at_once, ticket, send), small=True)
            else:
                ring()

    def _send_at_once(self, ticket: t.Ticket, send: Send) -> bool:
        with self._door.at_once(ticket):
            return send()

    # --- models ------------------------------------------------------------------------------------------------------

    def _begin(self, began: t.Began) -> None:
        model, broadcast = self._models.begin(began)
        self.making.begin(began.round, began.attempt, model.state)
        self._folding.running = began.round, began.attempt
        rings = self._door.begin(began, model, broadcast)
        if not self._context.known.is_set():
            self._learn()
        for ring in rings:
            ring()

    def _settle(self, said: t.Settle) -> None:
        folded, blobs, strategy = self._folding.folded, NOTHING, self._folding.strategy
        if not self.making.is_of(said.round, said.attempt):
            folded = 0
        elif said.whole and folded:
            assert strategy is not None
            blobs = raw_of(strategy.finish()) if said.made else of_state(strategy.partial())
        self.asking.tell(t.Settled(said.round, said.attempt, folded, blobs, said.made))

    # --- the end -----------------------------------------------------------------------------------------------------

    def _begin_close(self, grace: float) -> None:
        with self._closing:
            if self._closer is None:
                self._closer = threading.Thread(target=self._close, args=(grace,), name="node-closer")
                self._closer.start()
        self._models.close()

    def _close(self, grace: float) -> None:
        self._server.stop_accepting()
        self._server.close(grace)
        self.asking.tell(t.Closed())
        self.asking.outbox.close()
        self._to_send.put(None)
        self._ended.set()

    def join(self) -> None:
        """Wait for the end: the desk has asked for it, or the line was lost."""
        self._ended.wait()
        assert self._closer is not None
        self._closer.join()
        self._sender.join()
