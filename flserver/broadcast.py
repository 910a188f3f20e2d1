"""The bytes of a round's <MODEL>, written once and sent by every session.

A template of the pickled message is made at start; each round overwrites the tensors' payloads in it. A slow client may
still be reading last round's bytes, so a buffer is used again only when nobody sends from it.
"""

import threading

import blake3

from flserver.state import State, write_state
from flserver.wire.template import Template


class Broadcast:
    """One model's body. Sessions ``acquire`` it before and ``release`` it after sending."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._lock = threading.Lock()  # guards _users
        self._users = 0
        self.digest = ""

    @property
    def body(self) -> memoryview:
        return memoryview(self._template.buffer)

    @property
    def idle(self) -> bool:
        return self._users == 0

    def acquire(self) -> None:
        with self._lock:
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1

    def copy(self) -> "Broadcast":
        return Broadcast(self._template.copy())

    def write(self, state: State) -> None:
        """Overwrite the payloads; nobody may be sending."""
        write_state(self._template.module, state)
        self.digest = "blake3:" + blake3.blake3(self._template.buffer).hexdigest()


class BroadcastBuffers:
    """Two buffers in turn, more only while slow clients hold the old ones."""

    def __init__(self, template: Template) -> None:
        self._buffers = [Broadcast(template)]

    @property
    def size(self) -> int:
        """Bytes of one body."""
        return len(self._buffers[0].body)

    def render(self, state: State, current: Broadcast | None) -> Broadcast:
        """The body for ``state`` in a buffer that is neither ``current`` nor in use."""
        free = [buffer for buffer in self._buffers if buffer.idle and buffer is not current]
        if free:
            chosen = free[0]
            self._buffers = [b for b in self._buffers if b in (chosen, current) or not b.idle]
        else:
            chosen = self._buffers[0].copy()
            self._buffers.append(chosen)
        chosen.write(state)
        return chosen
