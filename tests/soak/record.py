"""What must hold in the record of a soak whose run is over, in SQL."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Ask = Callable[[str], list[tuple[Any, ...]]]

SUMMED = "SELECT SUM(connections) FROM v1_summaries"
NO_END = {
    "connections": "SELECT COUNT(*) FROM v1_connections WHERE closed_at IS NULL OR close_reason IS NULL",
    "registrations": "SELECT COUNT(*) FROM v1_clients WHERE left_at IS NULL OR left_reason IS NULL",
    "updates": "SELECT COUNT(*) FROM v1_updates WHERE decision IS NULL",
    "attempts": "SELECT COUNT(*) FROM v1_rounds WHERE status = 'running' OR ended_at IS NULL",
    "clients' rounds": "SELECT COUNT(*) FROM v1_client_rounds WHERE participation IS NULL",
    "runs": "SELECT COUNT(*) FROM v1_runs WHERE status = 'running' OR ended_at IS NULL",
}
WRONG = {
    "connections ended by a defect, or were not served": """
        SELECT COUNT(*) FROM v1_connections
        WHERE close_reason LIKE 'server error%' OR close_reason LIKE 'not served%'""",
    "messages were refused or failed without a reason": """
        SELECT COUNT(*) FROM v1_messages WHERE outcome <> 'ok' AND COALESCE(reason, '') = ''""",
    "means are of what cannot be so": """
        SELECT COUNT(*) FROM v1_round_metrics WHERE source = 'clients'
        AND (value IS NULL OR name = 'accuracy' AND value <> 0.5 OR name = 'loss' AND value <> 2)""",
    "rounds are not the sum of their updates' samples": """
        SELECT COUNT(*) FROM v1_rounds AS r WHERE status = 'committed' AND round > 0 AND data_size <> (
            SELECT SUM(counted_size) FROM v1_updates AS u WHERE u.run_id = r.run_id AND answers_round = round
            AND answers_attempt = attempt AND decision = 'accepted' HAVING COUNT(*) = updates_accepted)""",
    "events hold more than is kept of a message": """
        SELECT COUNT(*) FROM v1_events WHERE type <> 'RunStarted' AND length(payload) > 20000""",
    "visitors who left before the window closed were invited": """
        SELECT COUNT(*) FROM v1_client_rounds WHERE client_id = 'visitor'""",
    "messages belong to no connection": """
        SELECT COUNT(*) FROM v1_messages WHERE connection_id NOT IN (SELECT connection_id FROM v1_connections)""",
}


def judge_record(ask: Ask, ports: Counter[int], done: Mapping[str, int], rounds: int) -> list[str]:
    """A line for each thing that does not hold.

    ``ports`` are those of all connections made, ``done`` counts the trainers' ``registrations`` and ``uploads``, and
    ``rounds`` are how many the steady trainers answered.
    """
    found = [f"{count} {what} have no end" for what, query in NO_END.items() if (count := number(ask, query))]
    found += [f"{count} {what}" for what, query in WRONG.items() if (count := number(ask, query))]
    found += _connections(ask, ports)
    for what, table in (("registrations", "v1_clients"), ("uploads", "v1_updates")):
        if (rows := number(ask, f"SELECT COUNT(*) FROM {table}")) != done[what]:
            found.append(f"the trainers made {done[what]} {what}, {table} has {rows}")
    sound = number(ask, "SELECT COUNT(*) FROM v1_messages WHERE direction = 'in' AND outcome = 'ok'")
    if sound != done["registrations"] + done["uploads"]:
        found.append(f"{sound} messages that came in were ok, {done['registrations'] + done['uploads']} were honest")
    # What was answered when the soak was over may commit or not.
    if (committed := number(ask, "SELECT MAX(round) FROM v1_rounds WHERE status = 'committed'")) < rounds:
        found.append(f"{rounds} rounds were answered, {committed} are committed")
    if aborted := number(ask, f"SELECT COUNT(*) FROM v1_rounds WHERE status = 'aborted' AND round <= {rounds}"):
        found.append(f"{aborted} attempts were aborted while enough trainers answered")
    return found


def judge_rounds(ask: Ask, steady: Sequence[str], takers: Sequence[str], rounds: int) -> list[str]:
    """A line for each of the ``steady`` clients that had not every one of the ``rounds`` in time, and for each of the
    ``takers`` of turns that was invited more often than who holds up every round it is in."""
    found = []
    for client in steady:
        answered = f"""
            SELECT COUNT(*) FROM v1_client_rounds WHERE client_id = '{client}' AND round BETWEEN 1 AND {rounds}
            AND participation = 'answered' AND decision = 'accepted'"""
        if (count := number(ask, answered)) != rounds:
            found.append(f"trainer {client} answered {rounds} rounds, and had {count} of them in time")
    if held := number(ask, "SELECT COUNT(*) FROM v1_client_rounds WHERE participation = 'timed_out'"):
        found.append(f"rounds were held up to their deadline: {held} clients timed out")
    # After the n-th miss it sits out 2^(n - 1) rounds.
    most = rounds.bit_length() + 1
    for client in takers:
        invited = f"client_id = '{quoted(client)}' AND participation <> 'not_sent'"
        if (count := number(ask, f"SELECT COUNT(*) FROM v1_client_rounds WHERE {invited}")) > most:
            found.append(f"{client} was invited to {count} of {rounds} rounds, which it held up; {most} are allowed")
    return found


def quoted(text: str) -> str:
    return text.replace("'", "''")


def number(ask: Ask, query: str) -> int:
    ((value,),) = ask(query)
    return int(value or 0)


def _connections(ask: Ask, made: Counter[int]) -> list[str]:
    """Each connection that was made has its row or is in a sum, and no other has one."""
    rows = Counter(port for (port,) in ask("SELECT peer_port FROM v1_connections"))
    summed, found = number(ask, SUMMED), []
    if (missing := (made - rows).total()) != summed:
        found.append(f"{missing} of {made.total()} connections have no row, {summed} are summed")
    if unmade := (rows - made).total():
        found.append(f"{unmade} rows are of connections that nobody made")
    return found
