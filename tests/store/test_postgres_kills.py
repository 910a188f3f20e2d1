"""Two servers write one PostgreSQL database, whose sessions are ended at any moment, and which is killed itself."""

import random
import threading
from contextlib import ExitStack
from itertools import count

import pytest

from flserver.settings.places import Address
from flserver.store.schema import ensure_head
from tests.postgres_server import running_postgres
from tests.store.postgres_writers import Server, sound, states

KILLS = 15
ANY = """
    SELECT pg_terminate_backend(pid) FROM (
        SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'flserver run %' ORDER BY random() LIMIT 1
    ) AS one"""


@pytest.mark.postgres
def test_wherever_they_are_killed_every_event_is_there_once_and_the_chain_holds() -> None:
    chance, over = random.Random(7), threading.Event()
    with running_postgres() as postgres, ExitStack() as stack:
        database = postgres.create()
        address = Address(database.url())
        ensure_head(address)
        servers = {run: Server(stack, address, run) for run in ("one", "two")}
        said: dict[str, list[str]] = {run: [] for run in servers}

        def talk(run: str) -> None:
            for number in count():
                servers[run].say(str(number))
                said[run].append(str(number))
                if over.is_set():
                    return

        threads = [threading.Thread(target=talk, args=(run,)) for run in servers]
        for thread in threads:
            thread.start()
        ended = 0
        while ended < KILLS and not over.wait(chance.uniform(0.0, 0.2)):
            ended += len(database.ask(ANY))
            if ended == KILLS // 2:
                ended += 1
                postgres.kill()
                postgres.start()
        over.set()
        for thread in threads:
            thread.join()
        assert {run: states(address, run) for run in servers} == said
        assert sound(address) == sum(map(len, said.values()))
        assert not any(server.failures for server in servers.values())
        stack.close()
