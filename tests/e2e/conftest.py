"""What the end-to-end tests share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.asked import Asked
from tests.e2e.harness import Peer, ServerProcess
from tests.e2e.unattacked import alone as alone
from tests.eventful_run import Facts
from tests.eventful_run import eventful as eventful

Start = Callable[..., ServerProcess]


@pytest.fixture(scope="session", autouse=True)
def _forked(forker: None) -> None:
    """All of these are."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts server processes in the test's own folder; the test's end ends them."""
    with ExitStack() as stack:

        def starter(*arguments: str, env: dict[str, str] | None = None) -> ServerProcess:
            return stack.enter_context(ServerProcess(tmp_path, *arguments, env=env))

        yield starter


@pytest.fixture
def join() -> Iterator[Callable[..., list[Peer]]]:
    """Registers peers with a server, in order."""
    with ExitStack() as stack:

        def joiner(server: ServerProcess, *client_ids: object) -> list[Peer]:
            return [stack.enter_context(Peer(server, client_id)).join() for client_id in client_ids]

        yield joiner


@pytest.fixture
def asked(eventful: Facts) -> Asked:
    """What is asked of the eventful run."""
    return Asked(eventful)
