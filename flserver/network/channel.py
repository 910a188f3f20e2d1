"""A connected socket, plain or under TLS, with the few calls that the network room needs.

Every wait has its own time in seconds, and its end is a value (None), not an error: what it means is the caller's to
say. Errors of the operating system and of TLS come out as OSError.
"""

import contextlib
import errno
import fcntl
import select
import socket
import ssl
import sys
import termios
import threading
from collections.abc import Callable, Sequence

from flserver.clock import Deadline
from flserver.errors import Cause

TLS_PIECE = 1 << 16  # bytes that one call encrypts: small enough to note progress, four records
FIRST_PIECE = 1 << 14  # of a TLS record: what is in one arrives in one piece

LINGER_BYTES = 1 << 18

Piece = bytes | memoryview


class Channel:
    """One connection's socket. One thread uses it at a time: its session's, or while that waits with its turn given
    away, who sends ``send_at_once``. ``cut`` may be called from any. ``before_wait`` is called when there is nothing to
    read yet."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._fresh = sock.gettimeout() is None  # blocking, as it was accepted: a flag of one call changes that too
        self._waits = True  # whether the socket has a time-out: to change that is a call of the system
        self.before_wait: Callable[[], None] = nothing
        self._tls: ssl.SSLSocket | None = None
        self._peeked = b""  # taken out of TLS to see whether it was there, not yet read
        # Guards _sock and _closed: no call on a descriptor that is somebody else's by then.
        self._lock = threading.Lock()
        self._closed = False

    @property
    def sock(self) -> socket.socket:
        """For its options; reading and writing is done here."""
        return self._sock

    def fileno(self) -> int:
        return self._sock.fileno()

    # --- reading -----------------------------------------------------------------------------------------------------

    def receive_into(self, space: memoryview, seconds: float) -> int | None:
        """Bytes written to the start of ``space``: 0 at the end of file, None where none came in time."""
        if self._peeked:
            space[:1], self._peeked = self._peeked, b""
            return 1
        if self._tls is None and (count := self._receive_at_once(space)) is not None:
            return count
        self.before_wait()
        self._set_timeout(seconds)
        try:
            return self._sock.recv_into(space)
        except TimeoutError as error:
            if _systems(error):
                raise
            return None

    def _receive_at_once(self, space: memoryview) -> int | None:
        """The same without a wait: what came of a small message is mostly all of it."""
        flags = socket.MSG_DONTWAIT if self._fresh else 0
        if not self._fresh:
            self._never_wait()
        try:
            return self._sock.recv_into(space, 0, flags)
        except BlockingIOError:
            return None

    def _never_wait(self) -> None:
        if self._waits:
            self._sock.settimeout(0)
            self._fresh = self._waits = False

    def _set_timeout(self, seconds: float) -> None:
        self._sock.settimeout(_positive(seconds))
        self._fresh, self._waits = False, True

    def peek(self, most: int, seconds: float) -> bytes | None:
        """The first bytes that wait to be read, left where they are; before TLS only."""
        self.before_wait()
        self._set_timeout(seconds)
        try:
            return self._sock.recv(most, socket.MSG_PEEK)
        except TimeoutError as error:
            if _systems(error):
                raise
            return None

    def unread(self) -> int:
        """How many bytes have come that nobody has read; 0 where that cannot be told."""
        try:
            return int.from_bytes(fcntl.ioctl(self.sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return 0

    def ended(self) -> Cause | None:
        """What a readable connection has to say: None for nothing or for data, else the cause of its end."""
        try:
            self._never_wait()
            if self._tls is None:
                return None if self._sock.recv(1, socket.MSG_PEEK) else "closed"
            self._peeked = self._peeked or self._tls.recv(1)
            return None if self._peeked else "closed"
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            return cause_of(error)

    @property
    def holding(self) -> bool:
        """Whether TLS has taken data off the socket that poll() then does not tell of."""
        return bool(self._peeked) or (self._tls is not None and self._tls.pending() > 0)

    def readable(self) -> bool:
        """Whether data wait, after ``ended`` said that this is not the end."""
        if self._tls is not None:
            return self.holding
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    # --- writing -----------------------------------------------------------------------------------------------------

    def send(self, pieces: Sequence[Piece], seconds: float) -> int | None:
        """Bytes taken of the ``pieces``, which leave together as far as one call takes them; None: none in time.

        The first ``FIRST_PIECE`` bytes arrive together. After None the same pieces must be given again.
        """
        self._set_timeout(seconds)
        try:
            if self._tls is not None:
                return self._tls.send(_one_record(pieces))
            return self._sock.send(pieces[0]) if len(pieces) == 1 else self._sock.sendmsg(pieces)
        except TimeoutError as error:
            if _systems(error):
                raise
            return None

    def send_at_once(self, pieces: Sequence[Piece]) -> int:
        """Bytes that the system takes of the ``pieces`` without a wait; 0 also where the connection has ended, and
        under TLS, which would have to be given the same bytes again."""
        if self._tls is not None:
            return 0
        try:
            self._never_wait()
            return self._sock.sendmsg(pieces)
        except OSError:
            return 0

    # --- TLS, and the end --------------------------------------------------------------------------------------------

    def start_tls(self, context: ssl.SSLContext, seconds: float) -> ssl.SSLSocket:
        """Shake hands as the server. Raises ssl.SSLError, TimeoutError or another OSError."""
        self._set_timeout(seconds)
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("cut")
            self._sock = self._tls = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self._tls.do_handshake()
        return self._tls

    def cut(self) -> None:
        """End a connection that does not end by itself; its thread then sees the end of file."""
        with self._lock:
            if not self._closed:
                self._shut(socket.SHUT_RDWR)

    def close(self, linger: float = 0.0) -> None:
        """Say that nothing more comes, and close. ``linger`` seconds are for the peer to read what it was told: where
        something of its own is still unread, or comes late, the system resets the connection, and that is lost."""
        if self._tls is not None:
            # Tells the other end that nothing was cut off: stunnel turns an end without it into a reset, and a reset
            # may take a <FINISHED> with it that was not read yet.
            with contextlib.suppress(OSError, ValueError):
                self._tls.settimeout(0)
                self._tls.unwrap()
        self._shut(socket.SHUT_WR)  # closing alone is a reset where something is left to be read
        if linger:
            self.before_wait()
            self._read_away(linger)
        with self._lock:
            self._closed = True
            self._sock.close()
        self.before_wait = nothing  # or a session, which it belongs to, would be there until garbage is looked for

    def _read_away(self, seconds: float) -> None:
        deadline, left = Deadline.after(seconds), LINGER_BYTES
        with contextlib.suppress(OSError):
            while left > 0 and not deadline.passed:
                self._set_timeout(deadline.remaining())
                # Of the socket itself: what is under TLS is of no interest any more.
                came = len(socket.socket.recv(self._sock, min(left, FIRST_PIECE)))
                if not came:
                    return
                left -= came

    def _shut(self, how: int) -> None:
        # The plain call: that of a TLS socket would take away the state that its thread is reading with.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, how)


def nothing() -> None: ...


def cause_of(error: OSError) -> Cause:
    """Which of the causes of a lost connection an error is: ``reset``, ``timeout`` or ``other``.

    A machine that is gone is a time-out too where the network has noticed it before we did.
    """
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return "reset"
    gone = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH)
    return "timeout" if isinstance(error, TimeoutError) or error.errno in gone else "other"


def _positive(seconds: float) -> float:
    return max(seconds, 0.001)  # 0 would not wait at all


def _systems(error: TimeoutError) -> bool:
    """Whether the system gave up on the peer (keepalive): a wait of ours that is over has no errno."""
    return error.errno is not None


def _one_record(pieces: Sequence[Piece]) -> Piece:
    return pieces[0][:TLS_PIECE] if len(pieces) == 1 else b"".join(pieces)[:FIRST_PIECE]
