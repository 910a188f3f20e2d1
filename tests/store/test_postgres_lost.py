"""A server that has lost its session, its run or its database's last commits does no harm to whoever goes on."""

from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from flserver import events as e
from flserver.errors import StoreError, UsageError
from flserver.settings.places import Address
from flserver.store.database import Lock, at
from flserver.store.writer import Writer
from tests.crash.cable import Cable, Cut
from tests.patience import PATIENCE, eventually
from tests.postgres_server import PostgresDatabase
from tests.store import story
from tests.store.postgres_writers import STOP, Server, sound, states

pytestmark = pytest.mark.postgres

HOLDER = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'flserver run night%'"


def has(lock: Lock, run_id: str) -> Lock:
    """Once PostgreSQL has ended the session that had the run."""
    eventually(lambda: lock.try_run(run_id) or None)
    return lock


def test_a_start_whose_run_was_taken_meanwhile_touches_nothing(
    address: Address, postgres: PostgresDatabase, stack: ExitStack
) -> None:
    slow = stack.enter_context(at(address).lock(alone=False))
    slow.take_run("night")
    slow.require_run()
    postgres.ask(STOP)
    with at(address).lock(alone=False) as other:
        has(other, "night")
        with pytest.raises(UsageError, match="another server has taken run night: flserver run night on"):
            slow.require_run()
    with pytest.raises(UsageError, match="lost before it began: another server has taken over run night"):
        slow.require_run()  # it has its lock again, and what it read of the run is not so any more
    writer = Writer(address, run_id="night", process_id=1, lock=slow)
    with pytest.raises(StoreError, match="another server has taken over run night"):
        writer.start(**story.QUIET)
    assert sound(address) == 0


def test_a_start_that_lost_its_session_and_nothing_else_goes_on(
    address: Address, postgres: PostgresDatabase, stack: ExitStack
) -> None:
    lock = stack.enter_context(at(address).lock(alone=False))
    lock.take_run("night")
    postgres.ask(STOP)
    eventually(lambda: _requires(lock) or None)
    with at(address).lock(alone=False) as other:
        assert not other.try_run("night")
    writer = Writer(address, run_id="night", process_id=1, lock=lock)
    writer.start(**story.QUIET)
    stack.callback(writer.close)
    writer.emit(e.StateChanged(state="joining"))
    writer.flush()
    assert states(address, "night") == ["joining"]


def _requires(lock: Lock) -> bool:
    try:
        lock.require_run()
    except UsageError:
        return False  # PostgreSQL has not ended the other session yet
    return True


def test_a_database_that_has_lost_commits_ends_the_server(
    address: Address, postgres: PostgresDatabase, stack: ExitStack
) -> None:
    server = Server(stack, address, "night")
    server.say("joining")
    before = postgres.ask("SELECT seq, digest FROM flserver.head")
    server.say("running")
    postgres.ask(f"SET session_replication_role = replica; DELETE FROM events WHERE seq > {before[0][0]}")
    postgres.ask(f"UPDATE flserver.head SET seq = {before[0][0]}, digest = '{before[0][1]}'")
    postgres.ask(STOP)
    server.writer.emit(e.StateChanged(state="waiting"))
    with pytest.raises(StoreError, match="no longer has event 2, which this server had committed"):
        server.writer.flush()
    assert states(address, "night") == ["joining"]


def test_nobody_takes_a_run_over_while_an_upgrade_has_the_database_alone(
    address: Address, postgres: PostgresDatabase, stack: ExitStack
) -> None:
    standby = stack.enter_context(at(address).lock(alone=False))
    postgres.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'flserver %'")
    upgrade = eventually(lambda: _alone(stack, address))
    for _ in range(3):
        assert not standby.try_run("night")
    upgrade.__exit__(None, None, None)
    has(standby, "night")
    with pytest.raises(UsageError, match="is in use"), at(address).lock(alone=True):
        pass


def _alone(stack: ExitStack, address: Address) -> Lock | None:
    try:
        return stack.enter_context(at(address).lock(alone=True))
    except UsageError:
        return None


def test_an_idle_server_has_its_run_again_by_itself(
    address: Address, postgres: PostgresDatabase, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from flserver.store.postgres.session import Session

    server = Server(stack, address, "night")
    server.say("joining")
    before, connect, failed = postgres.ask(HOLDER), Session._connect, list[str]()

    def not_at_once(own: Any, heard: Any) -> Any:
        if not failed:
            failed.append("it starts")
            raise psycopg.OperationalError(*failed)
        return connect(own, heard)

    monkeypatch.setattr(Session, "_connect", not_at_once)
    postgres.ask(STOP)
    eventually(lambda: set(postgres.ask(HOLDER)) - set(before))
    eventually(lambda: at(address).unheld("night") is None)
    assert failed
    server.say("running")
    assert server.failures == []


def test_a_server_hears_that_its_run_was_ended_as_left_over(
    address: Address, postgres: PostgresDatabase, stack: ExitStack
) -> None:
    server, other = Server(stack, address, "night"), stack.enter_context(at(address).lock(alone=False))
    server.say("joining")
    assert other.takes_over("evening")
    other.give_back("evening")
    assert postgres.ask("SELECT epoch FROM flserver.writers WHERE run_id = 'evening'") == [(1,)]
    postgres.ask("UPDATE flserver.writers SET epoch = epoch + 1 WHERE run_id = 'night'")
    eventually(lambda: server.failures)
    assert "another server has taken over run night" in str(server.failures[0])


def test_a_database_that_syncs_nothing_is_refused(address: Address, postgres: PostgresDatabase) -> None:
    def turned(to: str) -> None:
        postgres.ask(f"ALTER SYSTEM SET fsync = {to}")
        postgres.ask("SELECT pg_reload_conf()")
        eventually(lambda: postgres.ask("SHOW fsync") == [(to,)])

    turned("off")
    try:
        with pytest.raises(UsageError, match="fsync = off: a power cut loses"), at(address).lock(alone=False):
            pass
    finally:
        turned("on")
    with at(address).lock(alone=False):
        pass


def test_a_database_that_says_nothing_is_cut_off_and_counts_as_away(
    address: Address, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flserver.store.postgres.session import is_away

    lock = stack.enter_context(at(address).lock(alone=False))
    monkeypatch.setattr("flserver.store.postgres.session.UNHEARD", 0.2)
    with pytest.raises(DBAPIError) as raised, lock.session.transaction() as connection:
        connection.execute(text("SELECT pg_sleep(:long)"), {"long": 10 * PATIENCE})
    assert is_away(raised.value)
    with pytest.raises(DBAPIError, match="is lost"), lock.session.transaction():
        pass


@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_a_database_that_says_nothing_when_a_session_begins_is_given_up_too(
    postgres: PostgresDatabase, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.store.postgres.session.UNHEARD", 0.2)
    monkeypatch.setenv("PGPASSWORD", postgres.server.password)
    with Cable(postgres.server.port, begins=b"SET search_path") as cable:
        cable.cut, cable.on_cut = Cut("statement", "asked", number), lambda: cable.hush(until_given_up=True)
        address = Address(f"postgresql://postgres@127.0.0.1:{cable.port}/{postgres.name}")
        with pytest.raises(UsageError, match="cannot be used as a database"), at(address).lock(alone=False):
            pass
        assert cable.was_cut
        with at(address).lock(alone=False) as lock:
            assert lock.try_run("night")
