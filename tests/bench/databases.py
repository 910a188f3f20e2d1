"""Where ``ops/bench --db`` has the records: databases of a PostgreSQL of its own, or somebody's one."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.driver import BenchError

OWN = "postgres"
USUAL = ("shared_buffers=128MB", "max_wal_size=1GB")
"""As a server has it where nobody has set them."""


@dataclass(frozen=True)
class Databases:
    """``fresh`` gives the address of the next run's, for a block; ``said`` is PostgreSQL's version, and where it is."""

    said: str
    fresh: Callable[[], AbstractContextManager[str]]


@contextlib.contextmanager
def databases(db: str, directory: Path) -> Iterator[Databases]:
    """Those that ``db`` means: ``OWN`` is a server that lives for the block and writes in ``directory``, with a
    database a run; else it is an address, and all runs have their records there. Raises BenchError."""
    try:
        import psycopg

        from flserver.errors import UsageError
        from flserver.settings.places import Address, place_of
        from tests.postgres_server import running_postgres  # which brings pytest
    except ImportError as error:
        raise BenchError(f"--db needs what pip install 'flserver[dev,services]' installs: {error}") from error
    if db != OWN:
        try:
            place = place_of(db)
            if not isinstance(place, Address):
                raise BenchError(f"--db {db}: it is {OWN}, or an address such as postgresql://USER@HOST/DATABASE")
            address = str(place)
            with psycopg.connect(address) as connection:
                said = f"{_version(connection.info)}, where --db says"
        except (UsageError, psycopg.Error) as error:
            raise BenchError(f"{error}") from error
        yield Databases(said, lambda: contextlib.nullcontext(address))
        return

    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres(*USUAL, directory=directory.resolve()))
        except AssertionError as error:  # as root, PostgreSQL works as nobody, who has to get to the folder
            raise BenchError(f"PostgreSQL does not start in {directory}: {error}") from error

        @contextlib.contextmanager
        def fresh() -> Iterator[str]:
            database = server.create()
            try:
                yield database.url()
            finally:
                database.drop()

        with server.connect() as connection:
            said = f"{_version(connection.info)}, on the same cores"
        yield Databases(said, fresh)


def _version(info: "psycopg.ConnectionInfo") -> str:  # noqa: F821
    return f"{info.server_version // 10_000}.{info.server_version % 10_000}"
