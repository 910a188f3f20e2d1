"""How the nodes of this machine get models, and make the new one: what is large lies in memory that all of them map.

``CalledNodes`` is the server's part, an ``ingest.engine.Engine`` over ``calls``; ``answers`` the node's.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from functools import partial
from typing import TYPE_CHECKING, Any

from flserver.ingest.engine import NodeGone
from flserver.ingest.node import Node
from flserver.ingest.patience import Patience
from flserver.process.nodes.calls import Answer, Caller, CallerGone, Does, Said
from flserver.process.nodes.descriptors import Shared, close_all

if TYPE_CHECKING:  # torch is not there yet when trainers register
    from flserver.aggregation import State

logger = logging.getLogger(__name__)

LEAST = 1 << 20  # bytes of a model below which it goes over the lines, and sums do
MAKE_SECONDS = 600.0  # that a node has at most for its part of a sum, or of a model
UNTAKEN = 2  # models that a node has not taken yet: the next one waits where older ones give way to it, in its line


class CalledNodes:
    """See ``ingest.engine.Engine``. For many threads. ``stops_at`` gives the end that somebody has asked for."""

    least = LEAST

    def __init__(self, stops_at: Callable[[], float | None] = lambda: None) -> None:
        self._stops_at = stops_at
        self._lock = threading.Lock()  # guards all below
        self._callers: dict[str, Caller] = {}
        self._untaken: dict[str, list[Future[Said]]] = {}
        self._model: tuple[int, int, Sequence[Any]] | None = None  # its number, its file, the sizes of its tensors
        self._layout: State = {}

    def add(self, caller: Caller) -> None:
        """There is a node that can be called."""
        with self._lock:
            self._callers[caller.name], self._untaken[caller.name] = caller, []

    def remove(self, caller: Caller) -> None:
        """It is there no more; what was asked of it fails."""
        with self._lock:
            self._callers.pop(caller.name, None)
            self._untaken.pop(caller.name, None)
        caller.cut()

    def close(self) -> None:
        """There is no model any more."""
        with self._lock:
            self._forget()

    # --- models ------------------------------------------------------------------------------------------------------

    def carry(self, number: int, state: "State") -> None:
        """See ``Engine``: a model's bytes lie in one file, which each node maps."""
        from flserver.process.nodes.values import put

        with self._lock:
            self._forget()
            self._layout = {name: tensor.to("meta") for name, tensor in state.items()}
            if sum(tensor.nbytes for tensor in state.values()) >= self.least:
                try:
                    descriptor, ((_, tensors),) = put([state])
                except OSError as error:
                    logger.warning("the model goes over the nodes' lines: %s", error.strerror)
                else:
                    self._model = number, descriptor, tensors

    def _forget(self) -> None:
        if self._model is not None:
            os.close(self._model[1])
        self._model = None

    def brings(self, number: int, name: str) -> bool:
        """See ``Engine``: not what is small, nor to who has not taken the ones before. Who cannot take one is gone: it
        may be waiting for it."""
        with self._lock:
            caller, model = self._callers.get(name), self._model
            if caller is None or model is None or model[0] != number:
                return False
            untaken = [answer for answer in self._untaken[name] if not answer.done()]
            if len(untaken) >= UNTAKEN:
                return False
            if caller.over:
                return False
            taken = partial(_taken_or_gone, caller)
            try:
                answer = caller.call("model", number, model[2], descriptors=[model[1]], then=taken)
            except OSError as error:
                logger.warning("the model goes over the line of %s: %s", name, error.strerror)
                return False
            self._untaken[name] = [*untaken, answer]
            return True

    # --- sums, and updates -------------------------------------------------------------------------------------------

    def finish(self, round: int, attempt: int, names: Sequence[str], turns: int) -> "State":
        """See ``Engine``. Raises NodeGone, and FlserverError where a node could not do its part."""
        from flserver.aggregation.ranges import put, ranges, unset_like

        with self._lock:
            found, layout = [self._callers.get(name) for name in names], self._layout
        callers: list[Caller] = []
        for name, caller in zip(names, found, strict=True):
            if caller is None:
                raise NodeGone(name, "it went before its part was asked for")
            callers.append(caller)
        count = len(callers) * turns
        parts, whole = ranges(layout, count), unset_like(layout)
        for first in range(0, len(parts), len(callers)):
            numbers = range(first, min(first + len(callers), len(parts)))
            for number, part in zip(numbers, self._turn(callers, (round, attempt, count), numbers), strict=True):
                put(whole, parts[number], part)
        return whole

    def _turn(self, callers: Sequence[Caller], which: tuple[int, int, int], numbers: range) -> "Iterator[State]":
        """The new model in each of these ranges, of which each caller makes one at most."""
        from flserver.process.nodes.values import memory_of, state_in

        makes = dict(zip(callers, numbers, strict=False))
        answers = list[Future[Said]]()

        def end() -> None:
            for answer in answers:  # also of one that comes when nobody waits for it any more
                answer.add_done_callback(_closed)

        shared = Shared(end)  # what each has cut goes to all others: copies would be more than a process may have

        def asked(caller: Caller, method: str, *given: object, descriptors: Sequence[int] = ()) -> "Future[Said]":
            answer = caller.call(method, *which, *given, descriptors=descriptors, shared=shared, long=True)
            answers.append(answer)
            return answer

        try:
            cutting = {
                caller: asked(caller, "cut", wanted)
                for caller in callers
                if (wanted := [number for number in numbers if number != makes.get(caller)])
            }
            cuts: dict[Caller, tuple[dict[int, Any], int]] = {}
            for caller, answer in cutting.items():
                (listed,), (descriptor,) = self._answered(caller, answer)
                cuts[caller] = dict(listed), descriptor
            making = {}
            for caller, number in makes.items():
                others = [(there[number], file) for other, (there, file) in cuts.items() if other is not caller]
                tensors, descriptors = [one for one, _ in others], [file for _, file in others]
                making[caller] = asked(caller, "made", number, tensors, descriptors=descriptors)
            for caller, answer in making.items():
                (tensors,), (descriptor,) = self._answered(caller, answer)
                yield state_in(memory_of(descriptor), tensors)
        finally:
            shared.let_go()

    def _answered(self, caller: Caller, answer: "Future[Said]") -> Said:
        patience = Patience(MAKE_SECONDS, self._stops_at)
        while left := patience.left:
            try:
                return answer.result(left)
            except Late:
                continue
            except CallerGone as error:
                raise NodeGone(caller.name, str(error)) from error
        raise NodeGone(caller.name, "it has not done its part in time")


def _taken_or_gone(caller: Caller, answer: "Future[Said]") -> None:
    if (error := answer.exception()) is not None and not caller.over:  # else its line is cut, and says so
        caller.lost(f"it could not take a model: {error}")
        caller.cut()  # so that the node knows, whose line's thread may wait for the model


def _closed(answer: "Future[Said]") -> None:
    if answer.exception() is None:
        close_all(answer.result().descriptors)


def answers(node: Node) -> Mapping[str, Does]:
    """What a node does when it is called."""

    def model(given: list[Any], descriptors: list[int]) -> Answer:
        number, tensors = given
        node.model(number, _blobs(_taken(descriptors)[0], tensors))
        return [], ()

    def cut(given: list[Any], descriptors: list[int]) -> Answer:
        from flserver.process.nodes.values import put

        round, attempt, count, wanted = given
        descriptor, values = node.making.cut(round, attempt, wanted, count, put)
        return [[[number, value.tensors] for number, value in zip(wanted, values, strict=True)]], [descriptor]

    def made(given: list[Any], descriptors: list[int]) -> Answer:
        from flserver.process.nodes.values import put, state_in

        round, attempt, count, number, listed = given
        others = [state_in(memory, tensors) for memory, tensors in zip(_taken(descriptors), listed, strict=True)]
        descriptor, ((_, tensors),) = put([node.making.made(round, attempt, number, count, others)])
        return [tensors], [descriptor]

    def there(given: list[Any], descriptors: list[int]) -> Answer:
        return [], ()

    return {"model": model, "cut": cut, "made": made, "there": there}


def _taken(descriptors: list[int]) -> list[memoryview]:
    """The files' memory, which outlives the descriptors. Raises OSError."""
    from flserver.process.nodes.values import memory_of

    try:
        return [memory_of(descriptor) for descriptor in descriptors]
    finally:
        close_all(descriptors)


def _blobs(memory: memoryview, tensors: Sequence[Any]) -> list[memoryview]:
    """Each tensor's bytes."""
    from flserver.models.state import raw_bytes
    from flserver.process.nodes.values import state_in

    return [raw_bytes(tensor) if tensor.numel() else memoryview(b"") for tensor in state_in(memory, tensors).values()]
