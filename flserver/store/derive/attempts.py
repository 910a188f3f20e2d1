"""The attempts that run, and what is still open in them: the writer knows, so that it need not ask for every update."""

from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from flserver.errors import StoreError
from flserver.store import tables as t

AttemptKey = tuple[str, int, int]
"""Run, round and attempt: the primary key of ``rounds``."""


@dataclass
class OpenAttempt:
    """Whose fate in it is open: the ``invited`` clients, each with whether it has answered, and by their ids the
    ``undecided`` updates, each with its client."""

    invited: dict[str, bool] = field(default_factory=dict)
    undecided: dict[int, str] = field(default_factory=dict)


class OpenAttempts(dict[AttemptKey, OpenAttempt]):
    """Those that run, by their keys."""

    @classmethod
    def of(cls, connection: Connection) -> "OpenAttempts":
        """As the tables have them."""
        rounds, seats, updates = t.rounds.c, t.client_rounds.c, t.updates.c
        found = cls()
        running = select(rounds.run_id, rounds.round, rounds.attempt).where(rounds.status == "running")
        for run_id, round, attempt in connection.execute(running).all():
            invited = select(seats.client_id, seats.bytes_in.is_not(None)).where(
                *(seats.run_id == run_id, seats.round == round, seats.attempt == attempt, seats.participation.is_(None))
            )
            undecided = select(updates.update_id, updates.client_id).where(
                *(updates.run_id == run_id, updates.answers_round == round, updates.answers_attempt == attempt),
                updates.decision.is_(None),
            )
            found[run_id, round, attempt] = OpenAttempt(
                {client: bool(answered) for client, answered in connection.execute(invited)},
                {int(update_id): client for update_id, client in connection.execute(undecided)},
            )
        return found

    def end(self, key: AttemptKey) -> OpenAttempt:
        """The attempt is over. Raises StoreError where it does not run."""
        if key not in self:
            raise StoreError(f"rounds has no open row for {key}")
        return self.pop(key)
