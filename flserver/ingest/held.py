"""The uploads of one node: those that are being decided, those that are folded only there, and its sum of them."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from flserver.clock import monotonic
from flserver.errors import ConnectionLost
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.outbox import Outbox
from flserver.rounds.exchange import Exchange
from flserver.rounds.seats import Upload, Verdict
from flserver.rounds.updates import Submission
from flserver.wire.messages import Measurement

if TYPE_CHECKING:
    from flserver.models.kept import Kept as KeptUpdates
    from flserver.rounds.committer import Committer


class NodeSubmission(Submission):
    """An update that counts, whose tensors are at its node; one that ``waits`` is folded there when it is told, or
    stays until it is needed no more."""

    def __init__(self, held: "Held", upload: Upload, metrics: tuple[Measurement, ...], *, waits: bool) -> None:
        super().__init__(upload, {}, metrics, self._drop)
        self._held, self._waits = held, waits

    def add_to(self, committer: "Committer", samples: int) -> None:
        if self._waits:
            self._held.fold(self.upload.update_id)

    def take_back_from(self, committer: "Committer", samples: int) -> None:
        self._drop()

    def _drop(self) -> None:
        self._held.forget(self.upload.update_id)
        if self._waits:
            self._waits = False
            self._held.outbox.put(t.Drop((self.upload.update_id,)))


class Kept(NamedTuple):
    """An update that was kept: of which round, under which digest, and for how many samples it counts. It is
    ``certain`` that it does, or its node went before that was."""

    update_id: int
    round: int
    digest: str
    samples: int
    certain: bool


Again = Callable[[Kept], bool]
"""Has an update added once more where its node is gone; False where it cannot be."""


@dataclass(frozen=True)
class _Held:
    """An update that counts; with the digest of what is ``kept`` of it, where updates are kept."""

    upload: Upload
    verdict: Verdict
    kept: str | None
    folded: bool

    def added(self, again: Again, exchange: Exchange) -> bool:
        """Whether it could be added again elsewhere."""
        answers, samples = self.verdict.answers, self.verdict.counted_size
        if self.kept is None or answers is None or samples is None:
            return False
        # What waited may be certain by now: those that the attempt's order has before it may not have come.
        certain = self.folded or exchange.is_certain(self.upload)
        return again(Kept(self.upload.update_id, answers.round, self.kept, samples, certain))


@dataclass
class _Sum:
    """What the node was asked of an attempt, and how far it is: it gave all, or its sum has a ``fault``."""

    round: int
    attempt: int
    whole: bool
    made: bool
    done: bool = False
    given: Sequence[memoryview] | None = None
    fault: str | None = None


class Held:
    """For many threads."""

    def __init__(self, exchange: Exchange, outbox: Outbox) -> None:
        self._exchange, self.outbox = exchange, outbox
        self._lock = threading.Lock()  # guards the five below; the exchange's is never taken inside it
        self._deciding: dict[int, tuple[Upload, Verdict]] = {}  # not confirmed yet
        self._held: dict[int, _Held] = {}  # confirmed, and nowhere but there
        self._sum: _Sum | None = None
        self._given: t.Given | None = None
        self._over = False

    # --- decisions ---------------------------------------------------------------------------------------------------

    def offer(self, offer: q.Offer, accepted_at: float) -> q.Decided:
        """Decide what an upload is; raises as ``Exchange.offer``. ``confirm`` or ``withdraw`` has to follow."""
        upload = Upload(
            update_id=offer.update_id,
            client_id=offer.client_id,
            peer=offer.peer,
            accepted_at=accepted_at,
            digest=offer.digest,
            rejection=offer.rejection,
            norms=offer.norms,
            cosine=offer.cosine,
            base_round=offer.base_round,
        )
        verdict = self._exchange.offer(upload)
        with self._lock:
            over = self._over
            if not over:
                self._deciding[upload.update_id] = upload, verdict
        if over:  # the node went meanwhile: nothing of it will be on record
            self._exchange.losses_on_record(self._exchange.lose([(upload, verdict, False)]))
        return _decided(verdict)

    def reject(self, update_id: int, rejection: str) -> q.Decided:
        """What was offered and counts cannot. Raises ConnectionLost where the node went meanwhile."""
        with self._lock:
            found = self._deciding.get(update_id)
        if found is None:
            raise ConnectionLost("its node is gone")
        upload, verdict = found
        verdict = self._exchange.reject_update(upload, verdict, rejection)
        with self._lock:
            if update_id in self._deciding:
                self._deciding[update_id] = upload, verdict
        return _decided(verdict)

    def confirm(self, told: t.Confirmed, kept: "KeptUpdates | None") -> None:
        """It is on its way into the record; where updates are ``kept``, the node has written it."""
        with self._lock:
            upload, verdict = self._deciding.pop(told.update_id)
            if verdict.counts:
                self._held[told.update_id] = _Held(upload, verdict, told.kept, told.folded)
        if kept is not None and told.kept is not None and verdict.answers is not None:
            kept.note(verdict.answers.round, told.update_id, told.kept)
        waits = verdict.counts and not told.folded
        submission = NodeSubmission(self, upload, told.metrics, waits=waits)
        self._exchange.confirm_update(submission, verdict, folded=told.folded)

    def withdraw(self, update_id: int) -> None:
        """It could not be put on record."""
        with self._lock:
            upload, verdict = self._deciding.pop(update_id)
        self._exchange.withdraw_update(upload, verdict)

    def lose_all(self, again: Again) -> list[tuple[Upload, Verdict]]:
        """The node is gone: which of all these counted, and are lost. Their attempt waits for
        ``Exchange.losses_on_record``. What was kept is not: ``again`` adds it here."""
        with self._lock:
            self._over = True
            held, deciding = list(self._held.values()), list(self._deciding.values())
            self._held.clear()
            self._deciding.clear()
        uploads = [(one.upload, one.verdict, True) for one in held if not one.added(again, self._exchange)]
        uploads += [(upload, verdict, False) for upload, verdict in deciding]
        verdicts = {upload.update_id: verdict for upload, verdict, _ in uploads}
        return [(upload, verdicts[upload.update_id]) for upload in self._exchange.lose(uploads)]

    # --- sums --------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """An attempt begins: what was held for another is nobody's any more."""
        with self._lock:
            self._held.clear()
            self._sum = self._given = None

    @property
    def ids(self) -> frozenset[int]:
        """The updates that were folded there, and are nowhere else."""
        with self._lock:
            return frozenset(self._held)

    def settle(self, round: int, attempt: int, *, whole: bool, made: bool = False) -> None:
        """Ask whether all of that attempt is folded, and for the sum where it is wanted ``whole``, or what is ``made``
        of it: each once."""
        with self._lock:
            if self._sum is not None and (self._sum.whole or not whole):
                return
            self._sum = _Sum(round, attempt, whole, made)
        self.outbox.put(t.Settle(round, attempt, whole, made))

    @property
    def is_settled(self) -> bool:
        """Whether all that counts is folded there."""
        with self._lock:
            return self._sum is not None and self._sum.done

    @property
    def has_answered(self) -> bool:
        """Whether it has said how far it is."""
        return self.is_settled or self.fault is not None

    @property
    def fault(self) -> str | None:
        """What is wrong with the sum there, if anything is: it cannot be used."""
        with self._lock:
            return self._sum.fault if self._sum is not None else None

    def given(self, settled: t.Settled) -> None:
        """The node has settled: what it gave is no longer there alone."""
        with self._lock:
            asked, count = self._sum, len(self._held)
            if self._over or asked is None or (asked.round, asked.attempt) != (settled.round, settled.attempt):
                return
            if asked.done or asked.made != settled.made or (asked.whole and settled.clients and not settled.blobs):
                return  # it answers what was asked before
            if settled.clients != count:
                asked.fault = f"it has folded {settled.clients} updates, and {count} count"
                return
            asked.done = True
            if settled.blobs:
                asked.given = settled.blobs
                self._held.clear()

    def take(self) -> Sequence[memoryview] | None:
        """The sum, or what was made of it, where the node gave it: once, and it is kept here no more."""
        with self._lock:
            if self._sum is None:
                return None
            given, self._sum.given = self._sum.given, None
            return given

    # --- updates that stay -------------------------------------------------------------------------------------------

    def ask(self, update_id: int) -> None:
        """Ask for an update that counts, and stayed at the node."""
        self.outbox.put(t.Give(update_id))

    def came(self, given: t.Given) -> None:
        """The node gives it: it is no longer there alone."""
        with self._lock:
            if not self._over and self._held.pop(given.update_id, None) is not None:
                self._given = given

    def has_come(self, update_id: int) -> bool:
        """Whether the node gave that one."""
        with self._lock:
            return self._given is not None and self._given.update_id == update_id

    def take_given(self, update_id: int) -> Sequence[memoryview] | None:
        """Its tensors, where the node gave them: once, and they are kept here no more."""
        with self._lock:
            given, self._given = self._given, None
            return given.blobs if given is not None and given.update_id == update_id else None

    def fold(self, update_id: int) -> None:
        """That update waits there, and is certain to count: it is folded."""
        with self._lock:
            if (held := self._held.get(update_id)) is not None:
                self._held[update_id] = replace(held, folded=True)
        self.outbox.put(t.Fold((update_id,)))

    def forget(self, update_id: int) -> None:
        """That update counts no more, or is in a model: it is not lost with its node."""
        with self._lock:
            self._held.pop(update_id, None)


def settle_all(parts: Mapping[Held, frozenset[int]]) -> bool:
    """The updates with these ids are in the new model: none of them can be lost any more. False where some were; then
    all others are still where they are."""
    with ExitStack() as locks:  # only here more than one of them is taken
        for held in parts:
            locks.enter_context(held._lock)
        if not all(ids <= held._held.keys() for held, ids in parts.items()):
            return False
        for held in parts:
            held._held.clear()
        return True


def _decided(verdict: Verdict) -> q.Decided:
    sent = verdict.answers
    ago = None if sent is None or sent.handed_over_at is None else monotonic() - sent.handed_over_at
    return q.Decided(
        decision=verdict.decision,
        reason=verdict.reason,
        answers=None if sent is None else q.Answers(sent.round, sent.attempt, ago),
        data_size=verdict.data_size,
        arrived_round=verdict.arrived_round,
        counted_size=verdict.counted_size,
        suspect=verdict.suspect,
    )
