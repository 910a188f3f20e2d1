"""A record on PostgreSQL is written as a file is: the same rows, behind one chain, whoever writes it."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError

from flserver import events as e
from flserver import faults
from flserver.errors import StoreError, UsageError
from flserver.settings.places import Address
from flserver.store import tables as t
from flserver.store.database import at
from flserver.store.purge import Selection, overwrite, purge
from flserver.store.reader import Reader
from tests import facts
from tests.facts import RUN
from tests.patience import eventually
from tests.postgres_server import PostgresDatabase, running_postgres
from tests.store import story
from tests.store.postgres_writers import STOP, Server, sound, states

pytestmark = pytest.mark.postgres


def test_the_same_story_is_the_same_rows(address: Address, database: Path) -> None:
    first, second = story.whole_run(), story.left_over()
    for place in (address, database):
        story.write(place, first)
        story.write(place, second, run_id=story.LEFT, process_id=2)
    there, here = Reader(address), Reader(database)
    assert sound(address) == len(first) + len(second)
    for table in t.DERIVED:
        query = f"SELECT * FROM {table.name} ORDER BY {_key(table)}"
        assert there.query(query) == here.query(query), table.name
    assert at(address).bytes() > 1e6


def test_a_purge_takes_and_leaves_the_same(address: Address, postgres: PostgresDatabase, database: Path) -> None:
    first, left = story.whole_run(), {}
    for place in (address, database):
        story.write(place, first)
        if place is address:
            postgres.ask("CHECKPOINT")
            assert b"10.0.0.7" in file_of_events(postgres), "the address of client 1"
        head = purge(place, [Selection(run_id=RUN, client_id="1")], [(RUN, facts.operator_acted())], [])
        overwrite(place)
        story.write(place, [e.StateChanged(state="joining")])
        reader = Reader(place)
        assert (reader.verify_chain().problems, reader.verify_chain().events) == ((), head.tree.size + 1)
        left[place] = [
            reader.query(f"SELECT {', '.join(_names(table))} FROM {table.name} ORDER BY {_key(table)}")
            for table in t.DERIVED
            if table is not t.operator_events  # with times of its own
        ] + [reader.query("SELECT seq FROM events WHERE payload IS NULL ORDER BY seq")]
    assert left[address] == left[database]
    assert len(left[address][-1][1]) > 5
    postgres.ask("CHECKPOINT")
    assert b"QuorumSettled" in file_of_events(postgres)
    assert b"10.0.0.7" not in file_of_events(postgres)


def file_of_events(postgres: PostgresDatabase) -> bytes:
    ((name,),) = postgres.ask("SELECT pg_relation_filepath('events')")
    return (postgres.server.folder / "data" / name).read_bytes()


def _names(table: Table) -> list[str]:
    return [f'"{column.name}"' for column in table.c]


def _key(table: Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.primary_key)


def test_servers_take_turns_behind_one_chain(address: Address, stack: ExitStack) -> None:
    servers = {run: Server(stack, address, run) for run in ("one", "two")}
    assert len({server.process_id for server in servers.values()}) == 2

    def talk(server: Server) -> None:
        for number in range(20):
            server.say(str(number))

    threads = [threading.Thread(target=talk, args=(server,)) for server in servers.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sound(address) == 40
    for run in servers:
        assert states(address, run) == [*map(str, range(20))]
    last = max(server.writer.head for server in servers.values())
    head = Reader(address).head()
    assert head is not None
    assert last == (40, head.digest())


def test_a_run_has_one_server_and_its_holder_is_named(address: Address, stack: ExitStack) -> None:
    Server(stack, address, "night")
    with at(address).lock(alone=False) as other:
        with pytest.raises(UsageError, match=r"run night is served already: flserver run night on .*a local socket"):
            other.take_run("night")
        assert at(address).unheld("day") == "copy", "nobody ever had it here"
        other.take_run("day")
    with pytest.raises(UsageError, match="is in use: flserver run night"), at(address).lock(alone=True):
        pass
    assert at(address).unheld("night") is None
    assert at(address).status_shown("running", "night") == "running"
    stack.close()
    assert at(address).unheld("night") == "left"
    assert at(address).status_shown("running", "night") == "running (no server has it)"
    with at(address).lock(alone=True) as lock:
        assert lock.takes_over("night")
        assert at(address).unheld("night") is None
        lock.give_back("night")
        assert at(address).unheld("night") == "left"


@pytest.mark.parametrize("lost", ["before", "at_commit", "after_commit"])
def test_a_lost_session_loses_and_repeats_nothing(
    address: Address, postgres: PostgresDatabase, stack: ExitStack, lost: str
) -> None:
    import psycopg

    server = Server(stack, address, "night")
    server.say("joining")
    happened: list[str] = []

    def lose(step: str) -> None:
        if happened:
            return
        if (step, lost) == ("commit", "at_commit"):
            happened.append(step)
            postgres.ask(STOP)
        elif (step, lost) == ("committed", "after_commit"):
            happened.append(step)
            raise DBAPIError("COMMIT", None, psycopg.OperationalError("the answer is lost"))

    faults.install(lose)
    if lost == "before":
        happened.append("before")
        postgres.ask(STOP)
    server.say("running")
    server.say("waiting")
    assert happened
    assert states(address, "night") == ["joining", "running", "waiting"]
    assert sound(address) == 3
    assert server.failures == []
    assert at(address).unheld("night") is None, "it has its lock again"


def test_a_server_whose_run_was_taken_over_commits_nothing_more(
    address: Address, postgres: PostgresDatabase, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.store.postgres.recording.BEAT", 3600.0)  # it does not look by itself
    first = Server(stack, address, "night")
    first.say("joining")
    postgres.ask(STOP)
    second = eventually(lambda: _taken(stack, address))
    second.say("running")
    first.writer.emit(e.StateChanged(state="waiting"))
    with pytest.raises(StoreError, match="another server has taken over run night"):
        first.writer.flush()
    second.say("completed")
    assert states(address, "night") == ["joining", "running", "completed"]
    assert sound(address) == 3


def test_an_epoch_that_is_not_its_own_ends_a_server_that_believes_it_has_the_run(
    address: Address, postgres: PostgresDatabase, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.store.postgres.recording.BEAT", 3600.0)  # it does not look by itself
    server = Server(stack, address, "night")
    server.say("joining")
    postgres.ask("UPDATE flserver.writers SET epoch = epoch + 1 WHERE run_id = 'night'")
    server.writer.emit(e.StateChanged(state="running"))
    with pytest.raises(StoreError, match=r"another server has taken over run night \(it is at epoch 2"):
        server.writer.flush()
    assert states(address, "night") == ["joining"]


def _taken(stack: ExitStack, address: Address) -> Server | None:
    try:
        return Server(stack, address, "night")
    except UsageError:
        return None  # PostgreSQL has not ended the other session yet


def test_a_database_that_goes_away_is_waited_for_and_then_it_ends_loudly(stack: ExitStack) -> None:
    with running_postgres() as server:
        database = server.create()
        address = Address(database.url())
        _made(address)
        patient, hasty = Server(stack, address, "patient"), Server(stack, address, "hasty", patience=0.1)
        patient.say("joining")
        hasty.say("joining")
        server.kill()
        hasty.writer.emit(e.StateChanged(state="running"))
        with pytest.raises(StoreError, match="the record cannot be written: postgresql://"):
            hasty.writer.flush()
        patient.writer.emit(e.StateChanged(state="running"))
        assert not patient.failures
        server.start()
        patient.writer.flush()
        assert states(address, "patient") == ["joining", "running"]
        assert states(address, "hasty") == ["joining"]
        assert sound(address) == 3
        stack.close()


def _made(address: Address) -> None:
    from flserver.store.schema import ensure_head

    assert ensure_head(address) is None


def test_servers_that_come_to_an_empty_database_at_once_make_it_once(empty_postgres: PostgresDatabase) -> None:
    address, failed = Address(empty_postgres.url()), list[BaseException]()

    def make() -> None:
        try:
            _made(address)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert Reader(address).runs() == []


def test_ids_are_above_those_of_a_record_that_came_from_elsewhere(address: Address, postgres: PostgresDatabase) -> None:
    story.write(address, story.whole_run(), process_id=1)
    postgres.ask("UPDATE processes SET process_id = 7")
    seeds = at(address).id_seeds()
    assert seeds.process_id == 8
    assert seeds.update_id == seeds.message_id == seeds.connection_id == 8 * 10**9 + 1
    assert at(address).id_seeds().process_id == 9


def test_a_pooler_is_refused(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    class Pooled(psycopg.Connection[Any]):
        """One whose session is another's: what it was told when it began is not what the database says."""

        @property
        def info(self) -> Any:
            class Info(psycopg.ConnectionInfo):
                backend_pid = 1

            return Info(self.pgconn)

    connect: Callable[..., Any] = Pooled.connect
    monkeypatch.setattr(psycopg, "connect", connect)
    with pytest.raises(UsageError, match="connection pooler"), at(address).lock(alone=False):
        pass


def test_both_ends_notice_within_five_seconds_that_the_other_vanished(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres.server.password)
    import psycopg

    from flserver.store.postgres.lock import PostgresLock

    with PostgresLock(Address(postgres.tcp_url())) as lock:
        driver = lock.session.connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with socket.socket(fileno=os.dup(driver.fileno())) as end:
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            here = [end.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
        there = [
            int(driver.execute(f"SELECT setting FROM pg_settings WHERE name = '{n}'").fetchone()[0]) for n in names
        ]
        for idle, interval, count, unanswered in (here, there):
            assert idle + interval * count < 5
            assert unanswered < 5000
