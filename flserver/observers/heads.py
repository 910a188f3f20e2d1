"""``/checkpoint``: the newest signed head, and the proof that it extends an earlier one; no more of the record."""

import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qsl

from flserver.clock import monotonic
from flserver.events import Event, HeadSigned

PER_SECOND, BURST = 5.0, 20  # answers to one address, which may be a forwarder; a witness needs one a minute
ALL_PER_SECOND, ALL_BURST = 20.0, 100  # to all of them
MOST_ADDRESSES = 1024  # told apart
_SIZE = re.compile("0|[1-9][0-9]{0,17}")

Proves = Callable[[int, HeadSigned], str]
"""The text of a head with the proof that it extends the one of so many events, which it has too."""


class Allowance:
    """So many things a second, and as many as ``burst`` at once."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._at = float(burst), monotonic()

    def take(self) -> bool:
        """Whether there is one more now."""
        now = monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class CheckpointPage:
    """Sees heads when they are durable, and answers with the newest. ``prove`` reads the database, for some 5 ms."""

    def __init__(self, prove: Proves) -> None:
        self._prove = prove
        self._newest: HeadSigned | None = None  # set by the writer's thread, as a whole
        self._all = Allowance(ALL_PER_SECOND, ALL_BURST)
        self._of: dict[str, Allowance] = {}  # by address, the one that asked last at the end

    def observe(self, event: Event) -> None:
        """Called after the head's transaction."""
        if isinstance(event, HeadSigned):
            self._newest = event

    def answer(self, query: str, address: str) -> tuple[HTTPStatus, bytes]:
        """To a request from ``address`` with this ``query``: ``since=SIZE``, or nothing."""
        if not (self._allowance(address).take() and self._all.take()):
            return HTTPStatus.TOO_MANY_REQUESTS, b"too many requests; one a minute does\n"
        given = dict(parse_qsl(query, keep_blank_values=True))
        since = given.get("since")
        if given.keys() - {"since"} or (since is not None and not _SIZE.fullmatch(since)):
            return HTTPStatus.BAD_REQUEST, b"/checkpoint or /checkpoint?since=SIZE, a number of events\n"
        newest = self._newest
        if newest is None:
            return HTTPStatus.NOT_FOUND, b"no head is signed here so far: --sign-key FILE has them signed\n"
        if since is None:
            return HTTPStatus.OK, newest.note.encode()
        if int(since) > newest.size:  # whoever asks has seen more than there is
            return HTTPStatus.CONFLICT, newest.note.encode()
        return HTTPStatus.OK, self._prove(int(since), newest).encode()

    def _allowance(self, address: str) -> Allowance:
        found = self._of.pop(address, None) or Allowance(PER_SECOND, BURST)
        self._of[address] = found
        if len(self._of) > MOST_ADDRESSES:
            del self._of[next(iter(self._of))]
        return found
