"""Who writes a record on PostgreSQL, as a server does, and what is there then."""

from contextlib import ExitStack

from flserver import events as e
from flserver.settings.places import Address
from flserver.store.database import at
from flserver.store.reader import Reader
from flserver.store.writer import Writer
from tests.patience import PATIENCE
from tests.store import story

STOP = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'flserver run %'"


class Server:
    """Has a run, and writes it."""

    def __init__(self, stack: ExitStack, address: Address, run_id: str, patience: float = PATIENCE) -> None:
        self.failures: list[BaseException] = []
        self.lock = stack.enter_context(at(address).lock(alone=False))
        self.lock.take_run(run_id)
        self.process_id = at(address).id_seeds().process_id
        self.writer = Writer(address, run_id=run_id, process_id=self.process_id, patience=patience, lock=self.lock)
        self.writer.start(**(story.QUIET | {"on_failure": self.failures.append}))
        stack.callback(self.writer.close)

    def say(self, state: str) -> None:
        """Put a little on record, durably."""
        self.writer.emit(e.StateChanged(state=state))  # type: ignore[arg-type]
        self.writer.flush()


def states(address: Address, run_id: str) -> list[str]:
    """What a run has said, by its events."""
    _, rows = Reader(address).query(
        "SELECT payload ->> 'state' FROM events WHERE run_id = :run AND type = 'StateChanged' ORDER BY seq",
        {"run": run_id},
    )
    return [row[0] for row in rows]


def sound(address: Address) -> int:
    """The number of events of a chain that holds."""
    found = Reader(address).verify_chain()
    assert found.problems == ()
    return found.events
