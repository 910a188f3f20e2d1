"""The models that a node has: those that came, and the one that attempts begin from."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flserver.errors import StoreError
from flserver.ingest import told as t
from flserver.ingest.asking import LINE_LOST
from flserver.ingest.batches import state_like
from flserver.rounds.broadcast import Broadcast, BroadcastBuffers
from flserver.rounds.model import CurrentModel
from flserver.wire.template import Template

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.aggregation import State

UNUSED = 2  # that have come and are nobody's yet: the next one, and one that a failed commit left


class NodeModels:
    """For whoever does what the desk says, but for ``came`` and ``close``."""

    def __init__(self) -> None:
        self.layout: State = {}
        self._buffers: BroadcastBuffers | None = None
        self.there: dict[int, tuple[CurrentModel, Broadcast]] = {}  # that have come, their rounds not known yet
        self.current: tuple[int, CurrentModel] | None = None
        self._changed = threading.Condition()  # guards the two below
        self.waiting: dict[int, Sequence[memoryview]] = {}  # whose bytes came by another way than the line
        self._closed = False

    def prepare(self, layout: "State", template: Template) -> None:
        """The model's layout is known, and how it goes on the wire."""
        self.layout = {name: tensor.to("meta") for name, tensor in layout.items()}  # without its numbers
        self._buffers = BroadcastBuffers(template)

    def came(self, number: int, blobs: Sequence[memoryview]) -> None:
        """A model's bytes, where they do not come in a batch; before or after its number does."""
        with self._changed:
            self.waiting[number] = blobs
            self._changed.notify_all()

    def close(self) -> None:
        """What did not come is waited for no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, said: t.Model) -> None:
        """A model is there, of which nothing is to be seen before an attempt begins with it. Raises StoreError."""
        from flserver.aggregation.steps import step_of

        assert self._buffers is not None
        state = state_like(self.layout, said.blobs or self._awaited(said.number))
        before = state_like(self.layout, said.before) if said.before else None
        if before is None and self.current is not None:
            before = self.current[1].state
        step = step_of(before, state) if before is not None else None
        self.there[said.number] = CurrentModel(-1, state, None, step), self._buffers.render(state)
        for number in sorted(self.there)[:-UNUSED]:
            del self.there[number]

    def _awaited(self, number: int) -> Sequence[memoryview]:
        with self._changed:
            self._changed.wait_for(lambda: number in self.waiting or self._closed)
            found = self.waiting.pop(number, None)
            for older in [other for other in self.waiting if other < number]:
                del self.waiting[older]  # that the desk never told of, or does no more
        if found is None:
            raise StoreError(LINE_LOST)
        return found

    def begin(self, began: t.Began) -> tuple[CurrentModel, Broadcast]:
        """An attempt begins: from which model, and that on the wire."""
        if self.current is None or self.current[0] != began.model:
            made, _ = self.there[began.model]
            for older in [number for number in self.there if number < began.model]:
                del self.there[older]  # no attempt begins with it any more
            self.current = began.model, CurrentModel(began.round - 1, made.state, began.digest, made.step)
        return self.current[1], self.there[began.model][1]
