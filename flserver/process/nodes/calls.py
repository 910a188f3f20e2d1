"""What a server asks of a node's process beside its line, and is answered: in order, with descriptors that go along.

It is carried over a socket pair, as JSON that says what, and files in memory (``values``) that lie behind it.
"""

import contextlib
import errno
import json
import logging
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from flserver.clock import monotonic
from flserver.errors import FlserverError, one_line
from flserver.ingest.faults import is_its_own
from flserver.ingest.lines import ENDED, LENGTH, receive_first, set_patience
from flserver.process.nodes.descriptors import Shared, close_all, copies

MOST_DESCRIPTORS = 200  # in one message: the system takes 253

logger = logging.getLogger(__name__)


class CallerGone(FlserverError):
    """The other process has ended, or its end of the socket has, or it cannot go on."""


class CallFailed(FlserverError):
    """It could not do what it was asked for; ``str`` says why."""


class Said(NamedTuple):
    """A call or an answer, with the descriptors that came along: whoever takes it closes them."""

    what: Any
    descriptors: list[int]


class _ToSend(NamedTuple):
    body: bytes
    descriptors: Sequence[int]
    let_go: Callable[[], None]


def send(sock: socket.socket, what: object, descriptors: Sequence[int] = ()) -> None:
    """Say something. Where nobody is there any more, the reader notices. Raises TypeError where it cannot be said."""
    _send(sock, _body(what, len(descriptors)), descriptors)


def _body(what: object, descriptors: int) -> bytes:
    return json.dumps([what, descriptors]).encode()


def _send(sock: socket.socket, body: bytes, descriptors: Sequence[int]) -> None:
    try:
        sock.sendall(len(body).to_bytes(LENGTH, "big") + body)
        for first in range(0, len(descriptors), MOST_DESCRIPTORS):
            socket.send_fds(sock, [b"\0"], descriptors[first : first + MOST_DESCRIPTORS])
    except OSError:  # or it takes nothing any more: there is no sense in what would follow
        cut(sock)


def receive(sock: socket.socket) -> Said:
    """What comes next. Raises EOFError at the end, and OSError."""
    what, count = json.loads(bytes(receive_first(sock)))
    descriptors: list[int] = []
    try:
        while len(descriptors) < count:
            byte, came, flags, _ = socket.recv_fds(sock, 1, min(MOST_DESCRIPTORS, count - len(descriptors)))
            descriptors += came
            if flags & socket.MSG_CTRUNC:  # what did not come is lost, and is not to be waited for
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if not byte or not came:
                raise EOFError("a call ended early")
    except BaseException:
        close_all(descriptors)
        raise
    return Said(what, descriptors)


def cut(sock: socket.socket) -> None:
    """Nothing more is said. May be called again, and by any thread."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _nothing(*_: object) -> None: ...


class Caller:
    """The server's end, for the node ``name``. Who calls may have a lock, and waits for nothing: a thread of its own
    sends, another one hears the answers, in the order of the calls. A node that takes nothing of what it is asked for
    ``patience`` seconds is gone. ``lost`` is called with why it cannot go on, by who calls; ``ended`` where nothing can
    be asked any more. Neither is to wait for these threads."""

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        patience: float,
        *,
        lost: Callable[[str], None] = _nothing,
        ended: Callable[[], None] = _nothing,
    ) -> None:
        set_patience(sock, patience)
        self._socket, self.name, self.lost, self._ended = sock, name, lost, ended
        self._patience = patience
        self._looks: tuple[Future[Said], float] | None = None  # whether it is there, and since when that is asked
        self._lock = threading.RLock()  # guards the three below, and the order of what is to be sent
        self._asked: deque[Future[Said]] = deque()
        self._long: list[Future[Said]] = []  # of those that take long, some of which may be done
        self._over = False
        self._to_send: queue.SimpleQueue[_ToSend | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._read, name=f"calls-{name}"),
            threading.Thread(target=self._send, name=f"asks-{name}"),
        ]

    def start(self) -> None:
        """Begin to ask, and to hear."""
        for thread in self._threads:
            thread.start()

    @property
    def over(self) -> bool:
        """Whether nothing can be asked any more."""
        with self._lock:
            return self._over

    def call(
        self,
        method: str,
        *given: object,
        descriptors: Sequence[int] = (),
        shared: Shared | None = None,
        then: "Callable[[Future[Said]], None]" = _nothing,
        long: bool = False,
    ) -> "Future[Said]":
        """Ask for something, which may take ``long``. The answer raises CallerGone, or CallFailed; ``then`` is called
        with it on the thread that reads it, and not where it is over already. ``descriptors`` stay the caller's to
        close, whenever it likes, for they are copied; of what is ``shared`` they are not, and that is let go of when
        they are sent. Raises OSError where this process may have no more of them, and TypeError where it cannot be
        said."""
        answer: Future[Said] = Future()
        body = _body([method, *given], len(descriptors))  # here, for what fails of it is the caller's
        with self._lock:
            if self._over:
                answer.set_exception(CallerGone(ENDED))
                return answer
            if shared is not None:
                shared.take()
                said = _ToSend(body, descriptors, shared.let_go)
            else:
                own = copies(descriptors)
                said = _ToSend(body, own, partial(close_all, own))
            answer.add_done_callback(then)
            self._asked.append(answer)
            if long:
                self._long.append(answer)
            self._to_send.put(said)
        return answer

    def look(self) -> None:
        """Ask whether the node is there, where nothing is asked of it that takes long. One that has not answered that
        for ``patience`` seconds is gone, whatever the system has taken in its stead."""
        with self._lock:
            self._long = [answer for answer in self._long if not answer.done()]
            if self._looks is None or self._looks[0].done():  # and nothing long comes in between
                self._looks = None if self._long else (self.call("there"), monotonic())
            overdue = self._looks is not None and monotonic() - self._looks[1] >= self._patience
        if overdue:
            self.lost(f"it has answered nothing for {self._patience:g} s")
            self.cut()

    def _send(self) -> None:
        while (said := self._to_send.get()) is not None:
            try:
                _send(self._socket, said.body, said.descriptors)  # also where it is cut: then that fails at once
            except Exception:  # whoever waits for the answer hears of it by the end of what reads
                logger.exception("%s cannot be asked", self.name)
                self.cut()
            finally:
                said.let_go()

    def _read(self) -> None:
        why = ENDED
        try:
            while True:
                (kind, *values), descriptors = receive(self._socket)
                with self._lock:
                    answer = self._asked.popleft()
                if kind == "gone":
                    answer.set_exception(CallerGone(*values))
                elif kind == "failed":
                    answer.set_exception(CallFailed(*values))
                else:
                    answer.set_result(Said(values, descriptors))
        except (EOFError, OSError, ValueError, IndexError) as error:
            logger.debug("%s answers no more: %s", self.name, error)
            if isinstance(error, OSError) and error.errno == errno.EMFILE:
                why = "the server may have no more descriptors (ulimit -n), and lost what it answered"
        finally:
            self.cut()  # what is still to be sent is not to wait for who takes nothing
            with self._lock:
                self._over, asked = True, list(self._asked)
                self._asked.clear()
            for answer in asked:
                answer.set_exception(CallerGone(why))
            self._ended()

    def cut(self) -> None:
        """Nobody calls any more; what was asked for and not answered fails. May be called again, and by any thread."""
        cut(self._socket)

    def close(self) -> None:
        """Cut it, and join its threads."""
        self.cut()
        reads, sends = self._threads
        if reads.ident is not None:
            reads.join()  # nothing is to be sent that was not yet
        self._to_send.put(None)
        if sends.ident is not None:
            sends.join()
        else:
            self._send()
        self._socket.close()


Answer = tuple[list[Any], Sequence[int]]
Does = Callable[[list[Any], list[int]], Answer]
"""Does what a call asks for, of its values and descriptors, and gives what to answer; it closes what it took."""


class Answering:
    """A node's end: ``does`` has what is done, by its name, on a thread of its own, one call at a time. ``ended`` is
    called where nothing is answered any more."""

    def __init__(self, sock: socket.socket, does: Mapping[str, Does], ended: Callable[[], None] = _nothing) -> None:
        self._socket, self._does, self._ended = sock, does, ended
        self._thread = threading.Thread(target=self._serve, name="calls")

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                (method, *given), taken = receive(self._socket)
                try:
                    values, descriptors = self._does[method](given, taken)
                except Exception as error:  # the server's to raise
                    if not isinstance(error, FlserverError):
                        logger.exception("%s failed", method)
                    send(self._socket, ["gone" if is_its_own(error) else "failed", one_line(error)])
                else:
                    try:
                        send(self._socket, ["done", *values], descriptors)
                    finally:
                        close_all(descriptors)
        except (EOFError, OSError) as error:
            logger.debug("nothing more is answered: %s", error)
        finally:
            cut(self._socket)  # whoever asks is not to wait for what does not come
            self._ended()

    def close(self) -> None:
        """Answer no more, and join the thread."""
        cut(self._socket)
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()
