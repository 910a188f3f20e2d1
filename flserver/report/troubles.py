"""What went wrong: drop-outs, refusals, what was cut off, and how often. Tables of it, and a line for each."""

import math
from collections import Counter
from collections.abc import Mapping

from flserver.events.words import ORDERLY_REASONS, REJECTED_KINDS
from flserver.report.facts import Facts
from flserver.report.states import NUMBER
from flserver.report.tables import Column, Table, table
from flserver.report.values import NONE, count, listed, moment, of, rounds, text
from flserver.store.reader import Row

NAMED = 5  # nodes that a line names
_REASONS = {
    "closed": "the client closed its connection",
    "reset": "the connection was reset",
    "timeout": "the client did not answer any more",
    "protocol": "the client spoke out of turn",
    "node": "the ingest node that served the client was gone",
    "other": "another reason",
}


def aborted(facts: Facts) -> list[Row]:
    return [row for row in facts.attempts if row["status"] == "aborted"]


def drop_outs(facts: Facts) -> list[Row]:
    """Registrations that ended otherwise than in order."""
    return [row for row in facts.registrations if row["left_reason"] not in (None, *ORDERLY_REASONS)]


def killed(facts: Facts) -> list[Row]:
    """Server processes whose end nobody saw, though they are not there any more."""
    going = facts.run["status"] == "running" and facts.unheld != "left"
    return [row for row in (facts.processes[:-1] if going else facts.processes) if row["ended_at"] is None]


def lines(facts: Facts) -> list[str]:
    """What went wrong and how often, a sentence each; empty where nothing did."""
    said = _nobody_has_it(facts)
    by_reason: dict[str, list[int]] = {}
    for row in aborted(facts):
        by_reason.setdefault(_why(facts, row["reason"]), []).append(row["round"])
    for reason, numbers in by_reason.items():
        said.append(
            f"{of(len(numbers), 'attempt was', 'attempts were')} aborted ({reason}): of round {rounds(numbers)}."
        )
    decided = Counter[str]()
    for row in facts.updates:
        decided[row["decision"] or "open"] += row["n"]
    for decision, meaning, meant in (
        ("rejected", "rejected: it could not be used", "rejected: they could not be used"),
        ("late", "late: its attempt was over", "late: their attempts were over"),
        ("duplicate", "a duplicate: it answered nothing", "duplicates: they answered nothing"),
        ("aborted", "lost with an attempt that was aborted", "lost with attempts that were aborted"),
        ("lost", "lost with the ingest node that had it", "lost with the ingest nodes that had them"),
    ):
        if number := decided[decision]:
            said.append(f"{of(number, 'update was', 'updates were')} {meaning if number == 1 else meant}.")
    states = sum((client.states for client in facts.participation.clients), Counter())
    if timed_out := states[NUMBER["timed_out"]]:
        said.append(f"{of(timed_out, 'invitation')} had no answer in time.")
    if left := drop_outs(facts):
        why = listed([f"{row['n']} × {_REASONS.get(row['left_reason'], text(row['left_reason']))}" for row in left])
        said.append(f"{of(sum(row['n'] for row in left), 'registration')} ended in a drop-out ({why}).")
    if refused := sum(row["n"] for row in facts.messages if row["outcome"] == "refused"):
        said.append(f"{of(refused, 'message was', 'messages were')} refused.")
    if failed := sum(row["n"] for row in facts.messages if row["outcome"] == "failed"):
        said.append(f"{of(failed, 'message was', 'messages were')} cut off.")
    if strangers := sum(row["connections"] for row in facts.strangers):
        said.append(f"{of(strangers, 'connection')} of strangers came to nothing, beyond those with rows of their own.")
    if gone := killed(facts):
        said.append(
            f"{of(len(gone), 'server process', 'server processes')} had no orderly end (killed, or a power cut)."
        )
    return said + _nodes_gone(facts) + _not_finite(facts)


def gone_nodes(facts: Facts) -> list[Row]:
    """The ingest nodes that were gone before their time."""
    return [row for row in facts.nodes if row["lost"]]


def _nodes_gone(facts: Facts) -> list[str]:
    """Which, and which attempts missed clients or updates for that."""
    if not (gone := gone_nodes(facts)):
        return []
    names = listed([text(row["node"]) for row in gone[:NAMED]] + [f"{len(gone) - NAMED} more"] * (len(gone) > NAMED))
    said = [f"{of(len(gone), 'ingest node was', 'ingest nodes were')} gone before the end: {names}."]
    if for_that := facts.cost_by_nodes:
        attempts = of(len(for_that), "attempt that had", "attempts that had")
        said.append(
            f"Nodes went during {attempts} too few updates then, of round {rounds(for_that)}: what they had was "
            "missing, and trainers may not be to blame."
        )
    return said


def _not_finite(facts: Facts) -> list[str]:
    """Of the loss that was measured here it says how the model was; of any other number, that it was so."""

    def where(values: Mapping[int, float]) -> list[int]:
        return sorted(round for round, value in values.items() if not math.isfinite(value))

    said = []
    if diverged := where(facts.measured("loss")):
        said.append(f"The loss was not finite in round {rounds(diverged)}: the model had diverged.")
    found = {"the accuracy": where(facts.measured("accuracy"))}
    for (name, source), values in facts.metrics.items():
        if source == "clients" or name not in ("loss", "accuracy"):
            found[f"{text(name, 40)}{' at the clients' if source == 'clients' else ''}"] = where(values)
    names = [name for name, numbers in found.items() if numbers]
    if names:
        numbers = sorted({number for name in names for number in found[name]})
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        said.append(
            f"What was measured besides was not finite in round {rounds(numbers)}: {', '.join(names[:5])}{more}."
        )
    return said


def _nobody_has_it(facts: Facts) -> list[str]:
    """That a run which is not over stands still, and what to type."""
    if facts.unheld is None:
        return []
    resume = f"flserver --db {facts.db} --resume --run-name {facts.ref}"
    if facts.unheld == "left":
        return [f"No server has it: it was killed, or lost its power. Resume it with {resume}"]
    return [
        "As far as this copy tells, no server has it: the original's was killed, or lost its power, or it was copied "
        f"while that went on. Resume it with {resume}"
    ]


def _why(facts: Facts, reason: str | None) -> str:
    """An attempt's reason; who stopped it is no word of a closed set."""
    known = ("quorum", "implausible", "failed", "server stopped")
    if reason is None or reason in known or facts.personal:
        return {"quorum": "too few updates", "failed": "an error"}.get(reason or "", text(reason))
    return "stopped"


def attempts_table(facts: Facts) -> Table:
    columns: list[Column] = [
        ("round", "number"),
        ("attempt", "number"),
        ("why", "text"),
        ("ended", "time"),
        ("clients", "number"),
    ]
    rows = (
        [
            str(row["round"]),
            str(row["attempt"]),
            _why(facts, row["reason"]),
            moment(row["ended_at"]),
            count(row["clients"]),
        ]
        for row in aborted(facts)
    )
    return table("Attempts that were aborted", columns, rows)


def decisions_table(facts: Facts) -> Table:
    columns: list[Column] = [
        ("decision", "text"),
        ("why", "text"),
        ("updates", "number"),
        ("of clients", "number"),
        ("rounds", "text"),
    ]
    rows = (
        [row["decision"] or "none yet", reason_cell(facts, row), count(row["n"]), _clients(row), _span(row)]
        for row in facts.updates
    )
    return table("Decisions on updates", columns, rows)


def reason_cell(facts: Facts, row: Row) -> str:
    reason = row["reason"]
    if row["decision"] == "lost" and not facts.personal:
        return "its ingest node is gone"  # how that came about is free text
    if facts.personal or reason is None:
        return text(reason)
    return reason if reason in REJECTED_KINDS else "other"


def _clients(row: Row) -> str:
    return f"1 ({text(row['client_id'], 40)})" if row["clients"] == 1 else count(row["clients"])


def _span(row: Row) -> str:
    if row["first"] is None:
        return NONE
    return str(row["first"]) if row["first"] == row["last"] else f"{row['first']} to {row['last']}"


def registrations_table(facts: Facts) -> Table:
    columns: list[Column] = [
        ("ended", "text"),
        ("identity", "text"),
        ("registrations", "number"),
        ("clients", "number"),
        ("of them again", "number"),
    ]
    rows = (
        [
            row["left_reason"] or "not yet, or unseen",
            row["identity"],
            count(row["n"]),
            count(row["clients"]),
            count(row["rejoined"]),
        ]
        for row in facts.registrations
    )
    return table("Registrations, by how they ended", columns, rows)


def messages_table(facts: Facts) -> Table:
    columns: list[Column] = [
        ("message", "code"),
        ("direction", "text"),
        ("outcome", "text"),
        ("form", "text"),
        ("how many", "number"),
    ]
    columns += [("clients", "number"), ("first", "time"), ("last", "time")]
    if facts.personal:
        columns.append(("why", "text"))
    rows = (
        [
            *(str(row[key]) for key in ("header", "direction", "outcome", "encoding")),
            *(count(row[key]) for key in ("n", "clients")),
            *(moment(row[key]) for key in ("first", "last")),
            *([text(row["reason"])] if facts.personal else []),
        ]
        for row in facts.messages
    )
    return table("Messages that were refused or cut off", columns, rows)


def strangers_table(facts: Facts) -> Table:
    columns: list[Column] = [
        ("what was wrong", "text"),
        ("connections", "number"),
        ("messages", "number"),
        ("first", "time"),
        ("last", "time"),
    ]
    if facts.personal:
        columns.insert(1, ("network", "text"))
    rows = (
        [
            row["reason"],
            *([text(row["prefix"])] if facts.personal else []),
            count(row["connections"]),
            count(row["messages"]),
            moment(row["first"]),
            moment(row["last"]),
        ]
        for row in facts.strangers
    )
    return table("Strangers without rows of their own", columns, rows)
