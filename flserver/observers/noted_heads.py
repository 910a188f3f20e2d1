"""The chain's head, noted in a file that may live elsewhere (``--audit-head``), after every round and at every stop.

A line each: ``seq digest run round time``. ``flserver verify --audit-head`` reads them: decisions/audit-head.md.
"""

import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from flserver.clock import utc_now
from flserver.events import Event, RoundCommitted

CLOSE_SECONDS = 5.0
"""How long a stop waits for a file that does not answer."""
LONGEST_LINE = 4096
"""Bytes; what is cut off of a line is shorter."""
MOST_LINES = 1000  # that wait for such a file; the newest are kept

logger = logging.getLogger(__name__)


class HeadFile:
    """Appends heads to the file at ``path``, durably, on a thread of its own: a disk elsewhere that is gone or hangs
    costs a warning and no round. ``head`` gives the chain's length and digest, ``round`` is the last committed one."""

    def __init__(self, path: Path, run_id: str, round: int | None, head: Callable[[], tuple[int, str]]) -> None:
        self._path, self._run_id, self._round, self._head = path, run_id, round, head
        self._thread = threading.Thread(target=self._run, name="audit-head", daemon=True)  # see the class
        self._work = threading.Condition()  # guards what follows
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._noted = 0
        self._closing = False
        self._failed = False  # the thread's alone

    def start(self) -> None:
        """Begin; also make the file, so that it is said at once where that cannot be done."""
        self._thread.start()

    def observe(self, event: Event) -> None:
        """Called after an event is durable, on the writer's thread."""
        if isinstance(event, RoundCommitted):
            self._round = event.round
            self._note()

    def _note(self) -> None:
        sequence, digest = self._head()
        with self._work:
            if sequence > self._noted:
                self._noted = sequence
                round = "-" if self._round is None else self._round
                self._lines.append(f"{sequence} {digest} {self._run_id} {round} {utc_now()}\n")
                self._work.notify()

    def close(self) -> None:
        """Note the last head, once nothing is recorded any more, and wait for the thread, but not for ever."""
        self._note()
        with self._work:
            self._closing = True
            self._work.notify()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("--audit-head %s does not answer: the last heads are not noted there", self._path)

    def _run(self) -> None:
        self._append("")
        kept: list[str] = []  # that could not be noted yet: once more with the next
        while True:
            with self._work:
                self._work.wait_for(lambda: self._lines or self._closing)
                kept, closing = [*kept, *self._lines][-MOST_LINES:], self._closing
                self._lines.clear()
            if kept and self._append("".join(kept)):
                kept = []
            if closing:
                return

    def _append(self, text: str) -> bool:
        """Whether that could be done; the first time that it cannot is said."""
        try:
            _append(self._path, text)
        except OSError as error:
            if not self._failed:
                logger.warning(
                    "--audit-head %s: %s; the run goes on, and heads are noted again once that is mended",
                    *(self._path, error.strerror or error),
                )
            self._failed = True
            return False
        if self._failed:
            logger.info("--audit-head %s: heads are noted again", self._path)
        self._failed = False
        return True


def note_now(path: Path, sequence: int, digest: str) -> None:
    """Note the head that a command has left, which is of no run. Where that cannot be done, it is said."""
    try:
        _append(path, f"{sequence} {digest} - - {utc_now()}\n")
    except OSError as error:
        logger.warning("--audit-head %s: %s; the head is not noted there", path, error.strerror or error)


def _append(path: Path, text: str) -> None:
    """Append ``text`` durably; what a crash left of a line before it goes first: it was no head yet. Raises OSError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    made = not path.exists()
    descriptor = os.open(path, flags, 0o640)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a regular file")
        if text and found.st_size:
            last = os.pread(descriptor, LONGEST_LINE, max(0, found.st_size - LONGEST_LINE))
            if cut_off := last.rpartition(b"\n")[2]:
                if len(cut_off) == LONGEST_LINE:
                    raise OSError("its last line is none of a head: it is another file")
                os.ftruncate(descriptor, found.st_size - len(cut_off))
        data = memoryview(text.encode())
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if made:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
