"""Thousands of short rounds: does a round cost at the end what it cost at the beginning?"""

import statistics
import time
from itertools import pairwise
from pathlib import Path

from tests.bench.driver import (
    JOINING,
    Child,
    Shape,
    all_accepted,
    database_in,
    folder_in,
    run,
    server_command,
)
from tests.bench.memory import Sampler
from tests.bench.report import Figure

CLIENTS, SIZE = 4, "0.03"
SHORT_FORM, LONG_FORM = 1_000, 10_000  # rounds


def endure(rounds: int, directory: Path) -> list[Figure]:
    """The last tenth of the rounds beside the first, what an update takes in the database, and a start that resumes."""
    shape, memory = Shape(CLIENTS, SIZE, rounds), Sampler()
    with folder_in(directory) as folder:
        done = run(server_command(shape, folder), shape, watch=memory)
        all_accepted(folder, shape)
        size = database_in(folder).stat().st_size
        resumed = resume(Shape(CLIENTS, SIZE, rounds + 1), folder)
    tenth = max(1, rounds // 10)
    first, last = done.moments[: tenth + 1], done.moments[-tenth - 2 : -1]  # the last round also says goodbye
    of_first, of_last = (statistics.median(after - before for before, after in pairwise(one)) for one in (first, last))
    grown = memory.mean(last[0], last[-1]) / memory.mean(first[0], first[-1])
    return [
        Figure("rounds", rounds),
        Figure("seconds of a round, last tenth / first", of_last / of_first, "×", most=1.2),
        Figure("memory, last tenth / first", grown, "×", most=1.2),
        Figure("database, an update", size / (CLIENTS * rounds) / 1024, "KiB", most=7),
        Figure("a round", 1000 * statistics.median(done.rounds), "ms"),
        Figure("peak memory", done.peak / 1e6, "MB"),
        Figure("resumed, until it waits for trainers", resumed, "s"),
    ]


def resume(shape: Shape, folder: Path) -> float:
    """Seconds that a server takes to go on with the run in the folder, until it waits for trainers."""
    began = time.monotonic()
    child = Child(server_command(shape, folder, "--resume"))
    try:
        child.said(JOINING)
        seconds = time.monotonic() - began
        child.stop()
    finally:
        child.close()
    return seconds
