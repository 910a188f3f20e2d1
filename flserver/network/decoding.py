"""Whose turn it is to take a message apart: a few at a time, in slices of processor time, within the memory's budget.

Reading a pickle is the one thing that takes the interpreter for as long as a peer likes. So it is done on one thread at
a time, and after each slice nobody reads for a moment, which goes on while other threads have work, but for no longer
than the slice: so whoever waits for the interpreter, above all who accepts connections, has half of it. Then the next
message has its slice.

A message that takes no more than the model that was sent, twice and a bit, is one of a few that are begun, and has
every processor slice that it wants. One that takes more gives up its place and begins anew, alone: it rests after each
slice for as long as that took, and the others go first. Both kinds are served owner by owner (a certificate or an
address), and of each owner client by client, as far as their first bytes name one of its clients; the rest have one
turn together. So nobody's messages wait for those of an owner that sends many, a client's not for those of its
neighbours, and an ordinary one does not wait for the end of a large one.

What reading takes is counted to the memory's budget before it is taken. Where there is no room the oldest goes on all
the same, and the others wait for it: what is being read is over the budget by one message at most.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Final, TypeVar

from flserver.clock import all_processor_seconds, monotonic, processor_seconds
from flserver.errors import ConnectionLost
from flserver.network.lines import Line
from flserver.network.memory import ReceiveMemory
from flserver.wire.pickles import Tick

PLACES: Final = 4  # ordinary messages that are begun, beside one that is none
SLICE: Final = 0.002  # seconds of processor time
BREATH, REST = 0.1, 1.0  # pauses after a slice, in its lengths: the least, and the longest one
BUSY = 0.5  # of a pause's time on the processor: the other threads have work, and the pause goes on
OVERTAKEN: Final = 3  # ordinary messages that go before the other one, at most
MORE: Final = 4  # times what reading may take, that what is done of a message beside it may

Result = TypeVar("Result")


class TooHeavy(Exception):
    """It takes more than an ordinary message."""


class Turn:
    """A message's place in the order. ``most`` is what it may take (bytes): None for as much as it likes. ``client``
    tells the messages of one owner apart."""

    def __init__(self, owner: Hashable, most: int | None, client: Hashable = None) -> None:
        self.owner, self.client, self.most = owner, client, most
        self.go = threading.Event()  # set while it has the processor, or is to look whether it may go on
        self.since = 0.0
        self.taken = self.charged = 0  # bytes
        self.stuck = False  # there is no room for it


class Decoding:
    """Gives turns; ``ordinary`` bytes are what reading an ordinary message takes at most, as far as is known."""

    def __init__(self, memory: ReceiveMemory, ordinary: int) -> None:
        self._memory = memory
        self.ordinary = ordinary
        self._lock = threading.Lock()  # guards everything below, and what turns hold but for their events
        self._closed = threading.Event()
        self._running: Turn | None = None
        self._begun: dict[Turn, None] = {}  # the oldest first
        self._newcomers, self._heavy = Line[Turn](), Line[Turn]()
        self._next: deque[Turn] = deque()  # ordinary ones that are begun, and want to go on
        self._large: Turn | None = None  # the other one that is begun
        self._large_wants = False
        self._overtaken = 0
        self._unpaused = 0.0  # seconds of processor time since the last pause

    @property
    def busy(self) -> bool:
        """Whether a message is being read, or waits for its turn."""
        return bool(self._begun or self._newcomers or self._heavy)

    def run(
        self,
        owner: Hashable,
        read: Callable[[Tick], Result],
        client: Callable[[], Hashable] = lambda: None,
        then: Callable[[Result, Tick], None] | None = None,
    ) -> Result:
        """What ``read`` returns, which is called when it is its turn, and is to call what it is given as a tick.

        It is called anew where it takes more than an ordinary message. ``client`` is asked where others of the owner
        wait. In the same turn ``then`` is called with an ordinary one that was read; it is ended early where it takes
        MORE than that. Raises what both raise, and ConnectionLost when :meth:`close` was called.
        """
        with suppress(TooHeavy):  # which has what was read in its traceback: it must be gone before the second try
            return self._run(Turn(owner, self.ordinary, self._client(owner, client)), read, then)
        return self._run(Turn(owner, None, self._client(owner, client)), read)

    def _client(self, owner: Hashable, client: Callable[[], Hashable]) -> Hashable:
        """The client's name, where it is of use."""
        with self._lock:
            alone = not (self._newcomers.holds(owner) or self._heavy.holds(owner))
        return None if alone else client()

    def close(self) -> None:
        """Nobody gets a turn any more; who waits for one stops waiting."""
        with self._lock:
            self._closed.set()
            for turn in [*self._newcomers, *self._heavy, *self._begun]:
                turn.go.set()

    def _run(
        self, turn: Turn, read: Callable[[Tick], Result], then: Callable[[Result, Tick], None] | None = None
    ) -> Result:
        with self._lock:
            (self._newcomers if turn.most is not None else self._heavy).put(turn)
            self._pass_on()
        try:
            self._await(turn)
            found = read(lambda size: self._tick(turn, size))
            if then is not None:
                self._memory.uncharge(turn.charged)  # what reading took is garbage by now
                turn.charged = turn.taken = 0
                turn.most = MORE * self.ordinary
                with suppress(TooHeavy):
                    then(found, lambda size: self._tick(turn, size))
            return found
        finally:
            self._end(turn)

    def _await(self, turn: Turn) -> None:
        turn.go.wait()
        if self._closed.is_set():
            raise ConnectionLost("the server is stopping", "other")
        turn.since = processor_seconds()

    def _end(self, turn: Turn) -> None:
        """Give everything back."""
        self._memory.uncharge(turn.charged)
        with self._lock:
            for line in (self._newcomers, self._heavy):
                line.remove(turn)
            self._begun.pop(turn, None)
            if self._running is turn:
                self._running = None
                self._unpaused += processor_seconds() - turn.since
            if self._large is turn:
                self._large, self._large_wants = None, False
            for other in self._begun:
                if other.stuck:
                    self._wants(other)
            self._pass_on()

    # --- for the one whose turn it is --------------------------------------------------------------------------------

    def _tick(self, turn: Turn, size: int) -> None:
        turn.taken += size
        if turn.most is not None and turn.taken > turn.most:
            raise TooHeavy
        while not self._charge(turn, size):
            self._await(turn)
        used = self._unpaused + processor_seconds() - turn.since
        if used >= SLICE:
            self._make_way(turn, used)

    def _charge(self, turn: Turn, size: int) -> bool:
        """Count so many bytes; False where it has to wait for those of another one, and is no longer the one to run."""
        if not self._memory.charge(size):
            with self._lock:
                if any(not other.stuck for other in self._begun if other is not turn):
                    turn.stuck = True
                    self._give_up(turn)
                    return False
            self._memory.charge(size, anyway=True)
        turn.charged += size
        return True

    def _make_way(self, turn: Turn, used: float) -> None:
        """After ``used`` seconds of reading: let the other threads work, then the next message."""
        until = monotonic() + used * REST
        while self._others_work(used * BREATH) and monotonic() < until and not self._closed.is_set():
            pass
        with self._lock:
            self._unpaused = 0.0
            self._give_up(turn)
        if turn.most is None:
            turn.go.wait(used * REST)
        with self._lock:
            if not self._closed.is_set():
                self._wants(turn)
                self._pass_on()
        self._await(turn)

    def _others_work(self, seconds: float) -> bool:
        """Pause for so long; whether other threads had a processor for much of the time."""
        began, before = monotonic(), all_processor_seconds()
        self._closed.wait(seconds)
        return all_processor_seconds() - before > BUSY * (monotonic() - began)

    # --- who is next; under the lock ---------------------------------------------------------------------------------

    def _give_up(self, turn: Turn) -> None:
        """It has the processor no longer."""
        self._running = None
        if not self._closed.is_set():
            turn.go.clear()
        self._pass_on()

    def _wants(self, turn: Turn) -> None:
        """One that is begun wants to go on."""
        turn.stuck = False
        if turn.most is not None:
            self._next.append(turn)
        else:
            self._large_wants = True

    def _pass_on(self) -> None:
        """Give the processor to the next one, where nobody has it."""
        if self._running is not None or self._closed.is_set():
            return
        if self._large is None and self._heavy:
            self._large, self._large_wants = self._heavy.take(), True
            self._begun[self._large] = None
        ordinary = sum(turn.most is not None for turn in self._begun)
        if self._large_wants and (self._overtaken >= OVERTAKEN or not (self._next or self._newcomers)):
            self._running, self._large_wants, self._overtaken = self._large, False, 0
        elif self._newcomers and ordinary < PLACES:
            self._running = self._newcomers.take()
            self._begun[self._running] = None
            self._overtaken += 1
        elif self._next:
            self._running = self._next.popleft()
            self._overtaken += 1
        if self._running is not None:
            self._running.go.set()
