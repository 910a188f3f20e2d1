"""The uploads of a process's trainers: each on a connection of its own, and so many at a time."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from flserver.simulation.answers import Piece
from flserver.simulation.loop import Call, Ended, Link
from flserver.wire.framing import encode_length


class Uploads:
    """``free`` are made at a time, at most; ``link`` makes a connection, ``note`` is told what went wrong, ``fewer``
    is called when one is over."""

    def __init__(
        self,
        free: int,
        link: Callable[[str, Ended], Link],
        note: Callable[[str], None],
        fewer: Call,
        *,
        tls: bool = False,
    ) -> None:
        self.link, self.note, self._tls = link, note, tls
        self._free, self._fewer = free, fewer
        self._waiting, self._under_way = deque[Call](), 0
        self.sent = 0

    @property
    def over(self) -> bool:
        """Whether none is under way, and none waits."""
        return not (self._under_way or self._waiting)

    def whole(self, client_id: str, pieces: list[Piece], done: Call, *, copies: int = 1) -> None:
        """Send a body on a connection of its own, and close that. Of two copies both are connected before one is sent,
        and the server has read both when this is done: neither can be taken for the next round's.

        Over TLS the server has read it, too: closing before its session tickets are read throws away what is on the
        way."""
        frame = framed(pieces)

        def all_sent() -> None:
            self.sent += copies
            done()

        def begin() -> None:
            if copies == 1:
                upload = Upload(self, client_id)
                if self._tls:
                    upload.send_and_wait(frame, all_sent)
                else:
                    upload.send(frame, upload.close, all_sent)
            else:
                second, first = Upload(self, client_id), Upload(self, client_id)
                second.link.opened(lambda: first.send_and_wait(frame, lambda: second.send_and_wait(frame, all_sent)))

        self._when_free(copies, begin)

    def half(self, client_id: str, pieces: list[Piece], done: Call) -> None:
        """Begin to send a body, and break off in the middle."""

        def begin() -> None:
            upload = Upload(self, client_id)
            upload.on_end = done
            upload.send(halved(framed(pieces)), done, upload.reset)

        self._when_free(1, begin)

    def _when_free(self, connections: int, begin: Call) -> None:
        if self._free >= connections:
            self._free -= connections
            self._under_way += connections
            begin()
        else:
            self._waiting.append(lambda: self._when_free(connections, begin))

    def gone(self) -> None:
        """A connection for an upload is over."""
        self._free += 1
        self._under_way -= 1
        if self._waiting and self._free > 1:
            self._waiting.popleft()()
        self._fewer()


class Upload:
    """A connection for one upload of a client. ``on_end`` is called where the server ends it."""

    def __init__(self, uploads: Uploads, client_id: str) -> None:
        self._uploads, self._over = uploads, False
        self.on_end: Call | None = None
        self.link = uploads.link(client_id, self._ended)

    def send(self, frame: list[Piece], *then: Call) -> None:
        """Send it, and call these when the system has it."""

        def sent() -> None:
            for call in then:
                call()

        self.link.send(frame, sent)

    def send_and_wait(self, frame: list[Piece], done: Call) -> None:
        """``done`` when the server has read it and closed."""
        if self._over:
            done()
            return
        self.on_end = done

        def sent() -> None:
            with suppress(OSError):
                self.link.say_no_more()
            self.link.read()

        self.send(frame, sent)

    def close(self) -> None:
        self._close(reset=False)

    def reset(self) -> None:
        self._close(reset=True)

    def _close(self, *, reset: bool) -> None:
        if not self._over:
            self._over = True
            self.link.close(reset=reset)
            self._uploads.gone()

    def _ended(self, why: str) -> None:
        if why:
            self._uploads.note(f"an upload was cut off: {why}")
        self.close()
        if self.on_end is not None:
            self.on_end()


def framed(pieces: list[Piece]) -> list[Piece]:
    return [encode_length(sum(map(len, pieces))), *pieces]


def halved(frame: list[Piece]) -> list[Piece]:
    """What comes of a frame before it breaks off in the middle."""
    left, found = sum(map(len, frame)) // 2, list[Piece]()
    for piece in frame:
        found.append(memoryview(piece)[:left])
        left -= len(found[-1])
    return [piece for piece in found if len(piece)]
