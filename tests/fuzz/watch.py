"""What one call costs, and whether it acts: every test of hostile bytes reads them under this watch."""

import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

ACTS = (
    "import",
    "exec",
    "compile",
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "pickle.find_class",
    "marshal.",
)
"""Beginnings of the audit events that reading bytes must never raise."""

T = TypeVar("T")

_seen: list[str] | None = None
_hooked = False


def _hook(event: str, _: tuple[object, ...]) -> None:
    if _seen is not None and event.startswith(ACTS):
        _seen.append(event)


@dataclass(frozen=True, kw_only=True)
class Watched(Generic[T]):
    """``result``, or the exception it ``raised``; processor ``seconds``; the ``peak`` of bytes; the acts."""

    result: T | None
    raised: Exception | None
    seconds: float
    peak: int
    acts: list[str]


def watched(call: Callable[[bytes], T], body: bytes, *, memory: bool = True) -> Watched[T]:
    """Calls ``call(body)``. Memory that nothing was written into counts as well: Python's allocators are traced.

    Tracing takes six times as long; without ``memory`` the peak is 0.
    """
    global _seen, _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # for the whole process: a hook cannot be taken away
        _hooked = True
    result, raised, peak = None, None, 0
    if memory:
        tracemalloc.start()
    began = time.process_time()
    _seen = []
    try:
        result = call(body)
    except Exception as error:
        raised = error
    finally:
        acts, _seen = _seen, None
        seconds = time.process_time() - began
        if memory:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    return Watched(result=result, raised=raised, seconds=seconds, peak=peak, acts=acts)


def one_short_line(reason: str) -> bool:
    """Whether a reason can go on record and into a log as it is."""
    return len(reason) < 400 and reason.isascii() and reason.isprintable()
