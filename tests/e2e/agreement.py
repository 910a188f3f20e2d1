"""Promise 7, held against a server that runs: what ``/metrics`` and SQL do not agree on."""

from collections import Counter

from tests.e2e.harness import ServerProcess

KNOWN_HEADERS = ("<METADATA>", "<SUCCESS>", "<ERROR>", "<MODEL>", "<FINISHED>")
COUNTERS = {
    "flserver_rounds_total": ("status", "SELECT status, COUNT(*) FROM v1_rounds WHERE status <> 'running' GROUP BY 1"),
    "flserver_updates_total": (
        "decision",
        "SELECT decision, COUNT(*) FROM v1_updates WHERE decision IS NOT NULL GROUP BY 1",
    ),
    "flserver_rejected_updates_total": (
        "reason",  # begins with a word of the closed set
        "SELECT substr(reason, 1, instr(reason || ':', ':') - 1), COUNT(*) FROM v1_updates"
        " WHERE decision = 'rejected' GROUP BY 1",
    ),
    "flserver_connections_total": (
        "purpose",
        "SELECT purpose, COUNT(*) FROM v1_connections WHERE closed_at IS NOT NULL GROUP BY 1"
        " UNION ALL SELECT purpose, SUM(connections) FROM v1_summaries GROUP BY 1",
    ),
    "flserver_dropouts_total": (
        "reason",
        "SELECT left_reason, COUNT(*) FROM v1_clients"
        " WHERE left_reason NOT IN ('finished', 'stopped', 'server stopped') GROUP BY 1",
    ),
    "flserver_nodes_lost_total": ("slot", "SELECT slot, SUM(lost) FROM v1_nodes GROUP BY 1"),
    "flserver_node_connections_total": ("slot", "SELECT slot, SUM(connections) FROM v1_nodes GROUP BY 1"),
    "flserver_node_up": ("slot", "SELECT slot, SUM(ended_at IS NULL) FROM v1_nodes GROUP BY 1"),
}

# Strangers' messages beyond those that have rows are in sums; what is sent to a stranger is <ERROR>.
MESSAGES = """
    SELECT direction, header, outcome, COUNT(*), SUM(bytes) FROM v1_messages GROUP BY 1, 2, 3
    UNION ALL SELECT 'in', header, outcome, messages, message_bytes FROM v1_summaries WHERE outcome IS NOT NULL
    UNION ALL SELECT 'out', '<ERROR>', 'ok', answers, bytes_out FROM v1_summaries
    UNION ALL SELECT 'out', '<ERROR>', 'failed', failed_answers, 0 FROM v1_summaries"""

UPDATES_OF_NODES = """
    SELECT slot, decision, COUNT(*) FROM v1_updates JOIN v1_connections USING (run_id, connection_id)
    JOIN v1_nodes USING (run_id, node) WHERE decision IS NOT NULL GROUP BY 1, 2"""


def disagreements(server: ServerProcess) -> list[str]:
    """A line for each counter that is not what the views say, while nothing is going on."""
    metrics = server.metrics()
    expected = _expected(server)
    names = {name for name, _ in expected}
    shown = {key: value for key, value in metrics.items() if value and key.partition("{")[0] in names}
    said = {name + labels: float(value) for (name, labels), value in expected.items() if value}
    return [
        f"/metrics says {key} {shown.get(key, 0):.0f}, SQL says {said.get(key, 0):.0f}"
        for key in sorted(shown.keys() | said.keys())
        if shown.get(key, 0) != said.get(key, 0)
    ]


def assert_metrics_say_what_sql_says(server: ServerProcess) -> None:
    assert disagreements(server) == []
    metrics = server.metrics()
    ((rounds,),) = server.sql("SELECT COUNT(seconds) FROM v1_rounds WHERE status = 'committed'")
    assert metrics['flserver_round_duration_seconds_bucket{le="+Inf"}'] >= rounds
    ((newest,),) = server.sql("SELECT MAX(round) FROM v1_rounds WHERE status <> 'aborted'")
    assert metrics["flserver_current_round"] == newest


def _expected(server: ServerProcess) -> Counter[tuple[str, str]]:
    """By name and labels. A name that has no rows stands there with 0, so that it is looked at all the same."""
    expected: Counter[tuple[str, str]] = Counter()
    for name, (label, query) in COUNTERS.items():
        expected[name, ""] = 0
        for key, count in server.sql(query):
            expected[name, f'{{{label}="{key}"}}'] += count
    for direction, header, outcome, count, size in server.sql(MESSAGES):
        labels = f'direction="{direction}",header="{header if header in KNOWN_HEADERS else "other"}"'
        expected["flserver_messages_total", f'{{{labels},outcome="{outcome}"}}'] += count
        expected["flserver_message_bytes_total", f"{{{labels}}}"] += size
    for slot, came, went in server.sql("SELECT slot, SUM(bytes_in), SUM(bytes_out) FROM v1_nodes GROUP BY 1"):
        for direction, size in (("in", came), ("out", went)):
            labels = f'{{direction="{direction}",slot="{slot}"}}'
            expected["flserver_node_message_bytes_total", labels] = size
    for slot, decision, count in server.sql(UPDATES_OF_NODES):
        expected["flserver_node_updates_total", f'{{decision="{decision}",slot="{slot}"}}'] = count
    ((events, sequence),) = server.sql("SELECT COUNT(*), MAX(seq) FROM v1_events")
    expected["flserver_audit_events_total", ""] = events
    expected["flserver_audit_sequence", ""] = sequence
    ((committed,),) = server.sql("SELECT COUNT(seconds) FROM v1_rounds WHERE status = 'committed'")
    expected["flserver_checkpoint_duration_seconds_count", ""] = committed
    return expected
