"""What is well-formed and costs: short messages that become much, requests that stall, ids and text that deceive."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.e2e.hostile.bombs import laughs
from tests.wire.pickle_opcodes import mapping, module, name, pickled, tensor, text

MUCH = {
    "lists": b"](" + b"]" * 60_000 + b"e",
    "dicts": b"](" + b"}" * 60_000 + b"e",
    "tuples": b"](" + (b")" + b"\x85" * 900) * 60 + b"e",
    "values that are kept": b"N" + b"\x94" * 60_000,
    "objects": b"](" + (name("a", "b") + b")\x81") * 8_000 + b"e",
    "laughs": laughs(100, b"]") + b"0](" + b"}" * 50_000 + b"e",
}


def body_of(value: bytes, client_id: str = "nobody") -> bytes:
    """An upload of a right model with a wrong value beside it, in less than 64 KiB: it needs no room."""
    header, own = text("<MODEL>"), text(client_id)
    body = pickled(mapping(header=header, id=own, odd=value, model=module({"w": tensor()})))
    assert len(body) < 64 * 1024
    return body


LOOKALIKES = {
    "\uff41": "it passes for 'a', its normal form (NFKC)",
    "a\u200b": "an integer or 1 to 128 printable characters",
    "a\u034f": "U+034F (COMBINING GRAPHEME JOINER) cannot be seen",
    "\u2800": "U+2800 (BRAILLE PATTERN BLANK) cannot be seen",
    "\u0301": "the mark U+0301 (COMBINING ACUTE ACCENT) stands on no letter",
    "1\u0323": "the mark U+0323 (COMBINING DOT BELOW) stands on no letter",
}
"""Ids that are none, and why."""

# The cursor's home and a red screen, a bell, a lone surrogate, text that runs backwards, a line of its own, NUL.
NASTY = "\x1b[H\x1b[41m\x07\ud800\u202egnp.exe\r\n2026-01-01 INFO all is well\x00"
FORMULAS = ('=HYPERLINK("http://x")', "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)")
"""Ids that a spreadsheet would calculate."""


def harmless(text: str) -> bool:
    """Whether a terminal shows it as it is."""
    return all(char.isprintable() or char == "\n" for char in text)


MANY_REQUESTS = 80  # more than the metrics port serves at once
STALLED_REQUESTS = {
    "silent": b"",
    "half a request": b"GET /healthz HTTP/1.1\r\nAccept: ",
    "an endless one": b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000,
}
TOO_LARGE_REQUESTS = {
    "two hundred headers": b"GET /metrics HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    "long headers": b"GET /metrics HTTP/1.1\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 50 + b"\r\n",
    "a long target": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
}


# Byte locks that whoever may read the file can take. In the -shm: 120 is the writer's, up to 127 those of checkpoints,
# recovery and readers (https://sqlite.org/walformat.html); in the database: what a reader of a rollback journal locks.
HOLD_LOCK = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.lockf(descriptor, fcntl.LOCK_SH, int(sys.argv[3]), int(sys.argv[2]))
print("locked", flush=True)
sys.stdin.read()
"""
HOLD_TRANSACTION = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holding(code: str, *arguments: object) -> Iterator[None]:
    """Another process has a lock while the block runs."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "locked\n"
            yield
        finally:
            other.communicate()
