"""Two clocks: the monotonic one for deadlines and durations, the wall clock for records. And a thread's own work."""

import time
from datetime import UTC, datetime
from functools import lru_cache

from flserver.frozen import frozen

monotonic = time.monotonic
processor_seconds = time.thread_time  # of the thread that asks
all_processor_seconds = time.process_time  # of all threads


def utc_now() -> str:
    """The wall clock as UTC ISO-8601 text with microseconds: ``2026-01-31T09:00:00.000000Z``."""
    second, microsecond = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_whole_second(second)}.{microsecond:06}Z"


@lru_cache(maxsize=4)
def _whole_second(timestamp: int) -> str:
    """A Unix timestamp as text without its fraction, kept: every event asks for the time."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def utc_text(timestamp: float) -> str:
    """A Unix timestamp (seconds) in the form of :func:`utc_now`."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def utc_at(at: float) -> str:
    """A moment on the monotonic clock in the form of :func:`utc_now`."""
    return utc_text(datetime.now(UTC).timestamp() + at - monotonic())


def utc_timestamp(text: str) -> float:
    """The Unix timestamp (seconds) of a text that :func:`utc_now` wrote."""
    return datetime.fromisoformat(text).timestamp()


def utc_moment(text: str) -> str:
    """What somebody wrote as a date (its midnight, UTC) or as a time (UTC where it does not say), in the form of
    :func:`utc_now`. Raises ValueError, with a sentence."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text}: no date, such as 2026-01-31, nor a time, such as 2026-01-31T09:00+01:00") from error
    return utc_text((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp())


@frozen()
class Deadline:
    """A moment on the monotonic clock, carried through every step that must be over by then."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - monotonic())

    @property
    def passed(self) -> bool:
        return monotonic() >= self.at
