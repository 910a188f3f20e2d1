"""The queries behind :class:`~flserver.events.totals.Totals`, from which ``/metrics`` goes on after a restart."""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from flserver.events.totals import NodeTotals, Totals
from flserver.events.words import PHASES, Decision, Phase

# Messages with rows of their own, and those that strangers' sums are of: a stranger is answered <ERROR>, if at all.
_MESSAGES = """
    SELECT direction, header, outcome, COUNT(*) AS count, SUM(bytes) AS bytes FROM messages WHERE run_id = :run
    GROUP BY direction, header, outcome
    UNION ALL SELECT 'in', header, outcome, messages, message_bytes FROM summaries WHERE run_id = :run AND messages > 0
    UNION ALL SELECT 'out', '<ERROR>', 'ok', answers, bytes_out FROM summaries WHERE run_id = :run AND bytes_out > 0
    UNION ALL SELECT 'out', '<ERROR>', 'failed', failed_answers, 0 FROM summaries
        WHERE run_id = :run AND failed_answers > 0"""
# Connections count once their purpose is final. A sum of bytes counts every message, whatever its outcome.
_COUNTS = {
    "rounds": "SELECT status, COUNT(*) FROM rounds WHERE run_id = :run GROUP BY status",
    "connections": """
        SELECT purpose, SUM(count) FROM (
            SELECT purpose, COUNT(*) AS count FROM connections WHERE run_id = :run AND closed_at IS NOT NULL
            GROUP BY purpose
            UNION ALL SELECT purpose, connections FROM summaries WHERE run_id = :run) AS counted GROUP BY purpose""",
    "updates": "SELECT decision, COUNT(*) FROM updates WHERE run_id = :run AND decision IS NOT NULL GROUP BY decision",
    "rejected": "SELECT reason, COUNT(*) FROM updates WHERE run_id = :run AND decision = 'rejected' GROUP BY reason",
    "dropouts": """
        SELECT left_reason, COUNT(*) FROM clients WHERE run_id = :run AND left_at IS NOT NULL GROUP BY left_reason""",
    "messages": f"""
        SELECT direction, header, outcome, SUM(count) FROM ({_MESSAGES}) AS counted
        GROUP BY direction, header, outcome""",
    "message_bytes": f"SELECT direction, header, SUM(bytes) FROM ({_MESSAGES}) AS counted GROUP BY direction, header",
}
_NUMBERS = {
    "rejoins": "SELECT COUNT(*) FROM clients WHERE run_id = :run AND rejoined = 1",
    "events": "SELECT COUNT(*) FROM events WHERE run_id = :run",
}
_NODES = """
    SELECT slot, SUM(COALESCE(lost, 0)), SUM(connections), SUM(bytes_in), SUM(bytes_out) FROM v1_nodes
    WHERE run_id = :run GROUP BY slot"""
_NODES_UPDATES = """
    SELECT n.slot, u.decision, COUNT(*) FROM nodes AS n
    JOIN connections AS c ON c.run_id = n.run_id AND c.node = n.node
    JOIN messages AS m ON m.connection_id = c.connection_id
    JOIN updates AS u ON u.message_id = m.message_id
    WHERE n.run_id = :run AND u.decision IS NOT NULL GROUP BY n.slot, u.decision"""


def read_totals(connection: Connection, run_id: str) -> Totals:
    """Add up the rows of ``run_id``. ``connection`` is in one transaction, so that all sums are of one moment."""
    run = {"run": run_id}
    counts: dict[str, Any] = {}
    for name, query in _COUNTS.items():
        rows = connection.execute(text(query), run)
        counts[name] = {(key[0] if len(key) == 1 else tuple(key)): count for *key, count in rows}
    numbers = {name: connection.execute(text(query), run).scalar_one() for name, query in _NUMBERS.items()}
    phases: dict[Phase, Sequence[float]] = {
        phase: _durations(connection, run, "rounds", f"{phase}_seconds") for phase in PHASES
    }
    return Totals(
        **counts,
        **numbers,
        round_seconds=_durations(connection, run, "rounds", "seconds"),
        phase_seconds=phases,
        client_seconds=_durations(connection, run, "client_rounds", "seconds"),
        checkpoint_seconds=phases["checkpoint"],
        nodes=_of_nodes(connection, run),
    )


def _of_nodes(connection: Connection, run: Mapping[str, str]) -> dict[int, NodeTotals]:
    updates: dict[int, dict[Decision, int]] = defaultdict(dict)
    for slot, decision, number in connection.execute(text(_NODES_UPDATES), run):
        updates[slot][decision] = number
    names = ("lost", "connections", "bytes_in", "bytes_out")
    return {
        slot: NodeTotals(**dict(zip(names, map(int, numbers), strict=True)), updates=updates[slot])
        for slot, *numbers in connection.execute(text(_NODES), run)
    }


def _durations(connection: Connection, run: Mapping[str, str], table: str, column: str) -> Sequence[float]:
    """The values of a column that are not NULL, 8 bytes each: a long run of many clients has millions."""
    query = text(f"SELECT {column} FROM {table} WHERE run_id = :run AND {column} IS NOT NULL")
    return array("d", (row[0] for row in connection.execute(query, run)))
