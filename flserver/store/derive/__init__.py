"""The rows that follow from an event: a pure function of the events before it and of itself.

``runs``, ``connections`` and ``rounds`` mirror the facts in ``events/``; ``statements`` is what they are made of.
"""

from sqlalchemy import Connection

from flserver import events as e
from flserver.store.derive import connections, rounds, runs
from flserver.store.derive.statements import Derivations, Origin

DERIVATIONS: Derivations = {**runs.DERIVATIONS, **connections.DERIVATIONS, **rounds.DERIVATIONS}


def run_of(event: e.Event, run_id: str) -> str:
    """The run that an event is about: the one it names, else ``run_id``, which its process works on."""
    return getattr(event, "run_id", run_id)


def derive(connection: Connection, origin: Origin, event: e.Event) -> None:
    """Write the rows that follow from ``event``, which stands at ``origin`` in the record.

    ``connection`` is in the transaction that writes the event itself. Raises StoreError where the event contradicts the
    rows before it.
    """
    DERIVATIONS[type(event)](connection, origin, event)
