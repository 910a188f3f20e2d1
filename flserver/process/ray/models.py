"""The models of a run whose nodes are on a Ray cluster.

A model goes into Ray's object store once, and from there once to each machine; at a round's end each node makes the new
model in one range of it, of what all nodes have there.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from flserver.cluster.ray import ActorGone, ActorLate, Cluster
from flserver.ingest.batches import raw_of
from flserver.ingest.engine import NodeGone
from flserver.ingest.faults import NodesFault
from flserver.process.ray.line import GONE_SECONDS, Line

if TYPE_CHECKING:
    from flserver.aggregation import State

REDUCE_SECONDS = 600.0  # that nodes have for their parts of a sum, and of a model

Asked: TypeAlias = Sequence[tuple[str, Any]]
"""What was asked of nodes, each by its name: references to their answers."""


class Lines:
    """The nodes that there are, and the model that each is given as it comes. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._lines: dict[str, Line] = {}
        self._model: tuple[int, Any] | None = None

    def add(self, line: Line) -> None:
        """One more: it is given the newest model, if there is one yet, and those that follow."""
        with self._lock:
            self._lines[line.place.name] = line
            if self._model is not None:
                line.carry(*self._model)

    def remove(self, line: Line) -> None:
        """That one is gone."""
        with self._lock:
            del self._lines[line.place.name]

    def carry(self, number: int, reference: Any) -> None:
        """Give all of them a model's bytes."""
        with self._lock:
            self._model = number, reference
            for line in self._lines.values():
                line.carry(number, reference)

    @property
    def now(self) -> Mapping[str, Line]:
        """Those that there are, by their names."""
        with self._lock:
            return dict(self._lines)


class RayModels:
    """What an ``ingest.engine.Engine`` is on a cluster, where the nodes are ``server``'s."""

    least = 0  # bytes: what goes over a line are calls of Ray's too

    def __init__(self, cluster: Cluster, lines: Lines, server: str) -> None:
        self._cluster, self._lines, self._server = cluster, lines, server
        self._layout: State = {}

    def carry(self, number: int, state: "State") -> None:
        """See ``Engine``: a model's bytes for all nodes, in Ray's object store."""
        import numpy as np

        tensors = [np.frombuffer(blob, dtype=np.uint8) for blob in raw_of(state)]
        self._layout = {name: tensor.to("meta") for name, tensor in state.items()}
        self._lines.carry(number, self._cluster.put(tensors))

    def brings(self, number: int, name: str) -> bool:
        """See ``Engine``: each has it from there."""
        return True

    def finish(self, round: int, attempt: int, names: Sequence[str], turns: int) -> "State":
        """See ``Engine``. Raises NodeGone, and what a node's part raised: ActorGone, or an error of ours."""
        from flserver.aggregation.ranges import put, ranges, unset_like
        from flserver.models.state import tensor_over

        lines, layout = self._lines.now, self._layout
        actors = []
        for name in names:
            if name not in lines:
                raise NodeGone(name, "it went before its part was asked for")
            actors.append((name, lines[name].actor))
        count = len(actors) * turns
        parts, whole = ranges(layout, count), unset_like(layout)
        for first in range(0, len(parts), len(actors)):
            cuts, made = list[tuple[str, Any]](), list[tuple[str, Any]]()
            for number in range(first, min(first + len(actors), len(parts))):
                name, makes = actors[number - first]
                part = self._server, round, attempt, number, count
                others = [(other, self._asked(other, actor, "cut", *part)) for other, actor in actors if other != name]
                cuts += others
                made.append((name, self._asked(name, makes, "made", *part, *(asked for _, asked in others))))
            found = self._all_of(made, cuts, actors)
            for within, arrays in zip(parts[first:], found, strict=False):
                put(whole, within, {name: tensor_over(array).view(whole[name].dtype) for name, array in arrays.items()})
        return whole

    def _asked(self, name: str, actor: Any, method: str, *given: object) -> Any:
        try:
            return self._cluster.call(actor, method, *given)
        except ActorGone as error:
            raise NodeGone(name, str(error)) from error

    def _all_of(self, made: Asked, cuts: Asked, actors: Sequence[tuple[str, Any]]) -> list[Any]:
        try:
            return self._cluster.get_all([asked for _, asked in made], REDUCE_SECONDS)
        except NodesFault as fault:
            raise NodeGone(fault.node, fault.why) from fault
        except ActorGone as error:
            self._raise_who_is_gone(actors, error)
            if isinstance(error, ActorLate):
                # The cuts first: what is made waits for them.
                self._raise_who_is_late((*cuts, *made), error)
            raise

    def _raise_who_is_gone(self, actors: Sequence[tuple[str, Any]], error: ActorGone) -> None:
        for name, actor in actors:
            try:
                self._cluster.get(self._cluster.call(actor, "is_there"), GONE_SECONDS)
            except ActorGone as gone:
                raise NodeGone(name, str(gone)) from error

    def _raise_who_is_late(self, asked: Asked, error: ActorLate) -> None:
        for name, reference in asked:
            if not self._cluster.is_made(reference):
                raise NodeGone(name, f"it has not done its part within {REDUCE_SECONDS:g} s") from error
