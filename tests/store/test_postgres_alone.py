"""Who has a database of PostgreSQL's alone writes only while that is so, and who is away for a moment loses no run."""

from contextlib import ExitStack
from typing import Any

import pytest

from flserver.errors import StoreError
from flserver.process.first_entries import close_left_overs
from flserver.settings.places import Address
from flserver.store.database import Lock, at
from flserver.store.purge import Selection, purge
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer
from tests import facts
from tests.facts import RUN
from tests.patience import eventually
from tests.postgres_server import PostgresDatabase
from tests.store import story
from tests.store.postgres_writers import STOP, Server

pytestmark = pytest.mark.postgres

WAIT = "flserver.store.postgres.lock.wait"
ALONE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'flserver alone on %'"


def lost(lock: Lock, postgres: PostgresDatabase) -> Lock:
    """Once PostgreSQL has ended its session."""

    def is_gone() -> bool:
        try:
            lock.require_held()
        except StoreError:
            return True
        return False

    lock.require_held()
    postgres.ask(ALONE)
    eventually(is_gone)
    return lock


def test_a_purge_that_has_lost_the_database_removes_nothing(address: Address, postgres: PostgresDatabase) -> None:
    story.write(address, story.whole_run())
    before = postgres.ask("SELECT COUNT(payload), MAX(seq) FROM events")
    gone = [Selection(run_id=RUN, client_id="1")], [(RUN, facts.operator_acted())], list[str]()
    with at(address).lock() as lock:
        with pytest.raises(StoreError, match=r"is lost.*the database is as it was"):
            purge(address, *gone, lost(lock, postgres))
    assert postgres.ask("SELECT COUNT(payload), MAX(seq) FROM events") == before
    with at(address).lock() as lock:
        purge(address, *gone, lock)
    assert postgres.ask("SELECT COUNT(payload), MAX(seq) FROM events") != before


def test_an_upgrade_that_has_lost_the_database_makes_nothing(empty_postgres: PostgresDatabase) -> None:
    address = Address(empty_postgres.url())
    with at(address).lock() as lock:
        with pytest.raises(StoreError, match=r"is lost.*the database is as it was"):
            ensure_head(address, lock=lost(lock, empty_postgres))
    assert at(address).revision() is None
    with at(address).lock() as lock:
        ensure_head(address, lock=lock)
    assert at(address).revision() is not None


@pytest.fixture
def other(address: Address, stack: ExitStack) -> Lock:
    """Of another server that starts."""
    return stack.enter_context(at(address).lock(alone=False))


def ended(address: Address, other: Lock) -> list[str]:
    """The runs that another server ends when it starts."""
    before = Reader(address).left_over_runs()
    writer = Writer(address, run_id="evening", process_id=99, lock=other)
    writer.start(**story.QUIET)
    try:
        close_left_overs(writer, Reader(address), other)
    finally:
        writer.close()
    return sorted({*before} - {*Reader(address).left_over_runs()})


def test_a_run_whose_idle_server_is_away_for_a_moment_is_not_left_over(
    address: Address, postgres: PostgresDatabase, stack: ExitStack, other: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.write(address, story.started("night", 1), run_id="night")
    server, away = Server(stack, address, "night"), held_off(monkeypatch)
    postgres.ask(STOP)
    eventually(lambda: at(address).unheld("night"))

    def wait(seconds: float) -> None:
        assert seconds > 2
        away.clear()
        eventually(lambda: at(address).unheld("night") is None)

    monkeypatch.setattr(WAIT, wait)
    assert ended(address, other) == []
    server.say("running")
    assert server.failures == []


def held_off(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As long as something is in it, no session is made."""
    import psycopg

    from flserver.store.postgres.session import Session

    reasons, connect = ["the network is away"], Session._connect

    def connecting(own: Any, heard: ExitStack) -> Any:
        if reasons and own._what == "run night":
            raise psycopg.OperationalError(*reasons)
        return connect(own, heard)

    monkeypatch.setattr(Session, "_connect", connecting)
    return reasons


def test_a_run_that_a_server_asks_for_again_is_not_left_over(
    address: Address, postgres: PostgresDatabase, other: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(WAIT, waited.append)
    story.write(address, story.started("night", 1), run_id="night")
    with postgres.connect(application_name="flserver run night on here, process 7"):
        assert other.left_over(["night"]) == []
        assert ended(address, other) == []
    eventually(lambda: other.left_over(["night"]) == ["night"])  # once the database knows that its session has ended
    assert ended(address, other) == ["night"]
    waits = len(waited)
    other.take_run("mine")
    assert other.left_over(["mine"]) == ["mine"]
    assert len(waited) == waits, "one's own is nobody else's"
