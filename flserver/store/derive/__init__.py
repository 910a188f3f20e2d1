"""The rows that follow from an event: a pure function of the events before it and of itself.

``runs``, ``connections`` and ``rounds`` mirror the facts in ``events/``; ``statements`` is what they are made of, and
``attempts`` what they need to know of the events before.
"""

from flserver import events as e
from flserver.store.derive import connections, rounds, runs
from flserver.store.derive.statements import Derivations, Origin, Rows

DERIVATIONS: Derivations = {**runs.DERIVATIONS, **connections.DERIVATIONS, **rounds.DERIVATIONS}


def run_of(event: e.Event, run_id: str) -> str:
    """The run that an event is about: the one it names, else ``run_id``, which its process works on."""
    return getattr(event, "run_id", run_id)


def derive(rows: Rows, origin: Origin, event: e.Event) -> None:
    """Add the rows that follow from ``event``, which stands at ``origin`` in the record.

    They are written in the transaction that writes the event itself. Raises StoreError where the event contradicts the
    rows before it, which ``Rows.write`` may find out too.
    """
    DERIVATIONS[type(event)](rows, origin, event)
