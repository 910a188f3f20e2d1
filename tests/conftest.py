"""What every test shares.

It leaves no thread and no descriptor behind in this process. Properties are tried with the examples of a profile:
``quick`` with the same hundred each time, so that a failure is there again, or with ``--hypothesis-profile=thorough``
with new ones, twenty times as many. Neither has a clock in it: a busy machine fails no test.
"""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from flserver.clock import Deadline
from tests import warm
from tests.patience import PATIENCE
from tests.postgres_server import empty_postgres as empty_postgres
from tests.postgres_server import postgres as postgres
from tests.postgres_server import postgres_server as postgres_server
from tests.ray_cluster import ray_cluster as ray_cluster
from tests.s3_server import s3 as s3
from tests.s3_server import s3_server as s3_server
from tests.scheduling import ByFixtures, order

# What stands beside the tests' files says as much as they do where an assert of its fails.
pytest.register_assert_rewrite("tests.e2e", "tests.flclient", "tests.models", "tests.wire")

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", ANY_MACHINE, max_examples=100, derandomize=True)
settings.register_profile("thorough", ANY_MACHINE, max_examples=2000, print_blob=True)
settings.load_profile("quick")

SETTLE = PATIENCE / 10  # seconds in which threads that a test has told to stop may end; a leak is told after them
DESCRIPTORS = Path("/proc/self/fd")
GPU = Path("/dev/nvidiactl")
KINDS = ("socket:", "pipe:", "anon_inode:[eventpoll]", "anon_inode:[eventfd]")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See ``scheduling``."""
    order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFixtures | None:
    """What ``-n`` alone asks for; --dist has other ways."""
    return ByFixtures(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session")
def forker() -> Iterator[None]:
    """Programs that ``warm`` starts are forked."""
    with warm.forking():
        yield


@pytest.fixture(scope="session", autouse=True)
def _cuda() -> None:
    """What CUDA opens once in a process, and keeps, is there before a test is looked at for leaks."""
    if GPU.exists():  # torch takes seconds, and not every test needs it
        import torch

        if torch.cuda.is_available():
            torch.nn.LSTM(1, 1).to("cuda")


class Leaked(AssertionError):
    """A test left something behind."""


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Every test, its own fixtures included: this one is made first, and so is ended last."""
    with no_leaks():
        yield


@contextmanager
def no_leaks(settle: float = SETTLE) -> Iterator[None]:
    """Raises Leaked where the block leaves a Python thread, or a socket, pipe or database open.

    The pools that torch makes when it needs them are no Python threads, and what else they open is not looked at.
    """
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield
    deadline = Deadline.after(settle)
    for thread in _started_since(threads):
        thread.join(deadline.remaining())
    left: list[object] = [*_started_since(threads)]
    if open_descriptors() - descriptors:
        gc.collect()  # what is only waiting for its reference cycle to be found is not leaked
    left += sorted(open_descriptors() - descriptors)
    if left:
        raise Leaked(f"left behind: {left}")


def _started_since(before: set[threading.Thread]) -> list[threading.Thread]:
    # A dummy stands for a foreign thread that has called into Python: a pool's, never ours.
    return [t for t in threading.enumerate() if t not in before and not isinstance(t, threading._DummyThread)]


def open_descriptors() -> set[tuple[int, str]]:
    """This process's sockets, pipes and SQLite files, with their numbers; empty where there is no /proc."""
    found = set()
    for entry in DESCRIPTORS.iterdir() if DESCRIPTORS.is_dir() else ():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # the descriptor that lists the others
            continue
        if target.startswith(KINDS) or ".sqlite" in Path(target).name:
            found.add((int(entry.name), target))
    return found
