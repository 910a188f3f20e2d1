"""A server process's threads, descriptors and memory, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at it, when so many connections had been made. ``anonymous`` and ``resident`` are bytes."""

    connections: int
    threads: int
    descriptors: int
    anonymous: int
    resident: int


def take(pid: int, connections: int) -> Sample:
    """Raises OSError where the process is gone."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return Sample(
        connections=connections,
        threads=int(fields["Threads"]),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        anonymous=_kilobytes(fields["RssAnon"]),
        resident=_kilobytes(fields["VmRSS"]),
    )


def _kilobytes(text: str) -> int:
    return int(text.removesuffix("kB")) * 1024
