"""What a report is made of, read from the views at one moment."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from flserver.errors import UsageError
from flserver.models.retention import MadeRound, best
from flserver.record.comparison import Side, side
from flserver.record.told import NO_VALUE, OfClients, Told, told_by_clients, told_by_trainers
from flserver.report.participation import Participation, read_participation
from flserver.report.values import text, word
from flserver.settings.places import Place, name_of, typed_anywhere, without_its_place
from flserver.settings.recorded import settings_of
from flserver.settings.server import SERVER_SETTINGS
from flserver.settings.shown import may_be_shown, without_folders
from flserver.store.database import at
from flserver.store.lock import Unheld, unheld_status
from flserver.store.reader import Reader, Row
from flserver.store.schema import check

NUMBERS_TOLD = ("learning_rate", "epochs", "batch_size", "seed", "num_clients")
"""The numbers that ``flclient`` tells: what is shown of what clients told of themselves."""
WITHHELD = '"(left out)"'  # as JSON
_NUMBER = re.compile(r"-?[\d.e+-]{1,24}", re.ASCII)
_DEFAULTS = {setting.key: setting.default for setting in SERVER_SETTINGS}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where the record ended when it was read: its last event's number, time and digest."""

    seq: int
    at: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A run. ``db`` is what to type after --db, without the folder unless ``personal``. Rows are
    those of the views, of which ``attempts`` are v1_rounds in order, ``committed`` those that made
    a round; ``metrics`` are v1_round_metrics by name and source, then by round; ``side`` is the run as a comparison has
    it, ``answered`` how many clients answered an invitation; ``told`` is what trainers told, as far as it is shown,
    ``told_left_out`` whether there is more, ``told_by`` who told what of it; ``cost_by_nodes`` has the
    round of each attempt that missed its quorum and clients, or updates, that went with ingest nodes. ``unheld`` is set
    where the run is on record as going on, and no server has the database."""

    database: str
    db: str
    personal: bool
    moment: Moment
    run: Row
    side: Side
    settings: Mapping[str, Any]
    processes: Sequence[Row]
    nodes: Sequence[Row]
    cost_by_nodes: Sequence[int]
    acts: Sequence[Row]
    attempts: Sequence[Row]
    metrics: Mapping[tuple[str, str], Mapping[int, float]]
    participation: Participation
    answered: int
    updates: Sequence[Row]
    registrations: Sequence[Row]
    messages: Sequence[Row]
    strangers: Sequence[Row]
    purged: int
    heads: int
    people: Sequence[Row]
    told: Told
    told_left_out: bool
    told_by: Mapping[str, OfClients]
    unheld: Unheld | None = None

    @property
    def ref(self) -> str:
        """The run's id, as far as a command can have it: a stranger's record may have anything there."""
        return self.run["run_id"] if re.fullmatch(r"[\w.-]{1,80}", self.run["run_id"], re.ASCII) else "RUN"

    @property
    def status(self) -> str:
        """The run's status for people."""
        return unheld_status(self.run["status"]) if self.unheld else str(self.run["status"])

    @property
    def committed(self) -> list[Row]:
        return [row for row in self.attempts if row["status"] == "committed"]

    @property
    def last(self) -> Row | None:
        return self.committed[-1] if self.committed else None

    @property
    def best(self) -> Row | None:
        """The round that ``export-model --round best`` gives; None where none was measured."""
        found = best(map(MadeRound.of, self.committed))
        return None if found is None else next(row for row in self.committed if row["round"] == found.round)

    def measured(self, name: str) -> Mapping[int, float]:
        """What the server measured of its models, by round: ``name`` is ``loss`` or ``accuracy``. NaN and the
        infinities are numbers too."""
        own = {row["round"]: row[name] for row in self.committed if row[name] is not None}
        for source in ("server", "evaluate"):
            own |= self.metrics.get((name, source), {})
        return dict(sorted(own.items()))

    @property
    def evaluated(self) -> bool:
        """Whether the server measured any of its models, finite or not."""
        return bool(self.measured("accuracy") or self.measured("loss"))

    @property
    def bytes(self) -> tuple[int, int]:
        """Of all updates that came, duplicates too, and of all models sent to the clients."""
        sent = sum(client.row["bytes_out"] or 0 for client in self.participation.clients)
        return sum(row["bytes"] or 0 for row in self.updates), sent


def require_columns(db: Place) -> None:
    """Raises UsageError where the database is of a version that has not all that a report shows."""
    state = check(db)
    if not state.at_head:
        raise UsageError(
            f"{db} is of an older version, and a report shows what that has not: flserver --db {db} db upgrade, which "
            "keeps a copy"
        )


def read_facts(reader: Reader, ref: str | None, db: Place, personal: bool = False) -> Facts:
    """What the record says of run ``ref``, the newest if None. Addresses, certificates, info and free
    text are in it only if ``personal``.

    Raises UsageError where there is no such run.
    """
    run_id = reader.run(ref)["run_id"]
    nobody = at(db).unheld(run_id)  # before its end is read: whoever ends a run says so before letting it go
    run = reader.run(run_id, exact=True)

    def rows(sql: str) -> list[Row]:
        columns, found = reader.query(sql, {"run_id": run_id})
        return [dict(zip(columns, row, strict=True)) for row in found]

    told = told_by_trainers(reader, run_id)
    shown = told if personal else _numbers(told)
    end = rows("SELECT seq, at, digest FROM v1_events ORDER BY seq DESC LIMIT 1")[0]
    metrics: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows(
        "SELECT round, name, source, value, note FROM v1_round_metrics WHERE run_id = :run_id ORDER BY round"
    ):
        value = float(row["note"] or "nan") if row["value"] is None else row["value"]
        metrics.setdefault((row["name"], row["source"]), {})[row["round"]] = value
    return Facts(
        database=text(name_of(db)),
        db=word(typed_anywhere(db) if personal else without_its_place(db)),
        personal=personal,
        moment=Moment(**end),
        run=run,
        side=side(reader, run),
        settings=settings_of(run),
        processes=rows("SELECT * FROM v1_processes WHERE run_id = :run_id ORDER BY process_id"),
        nodes=rows("SELECT * FROM v1_nodes WHERE run_id = :run_id ORDER BY started_at, node"),
        cost_by_nodes=[row["round"] for row in rows(_COST_BY_NODES)],
        acts=rows("SELECT * FROM v1_operator_events WHERE run_id = :run_id ORDER BY at"),
        attempts=rows("SELECT * FROM v1_rounds WHERE run_id = :run_id ORDER BY round, attempt"),
        metrics=metrics,
        participation=read_participation(reader, run_id),
        answered=rows(_ANSWERED)[0]["n"],
        updates=rows(_UPDATES.format(reason="u.reason" if personal else _KIND)),
        registrations=rows(_REGISTRATIONS),
        messages=rows(_MESSAGES.format(reason="m.reason" if personal else "NULL")),
        strangers=rows(_STRANGERS.format(prefix="prefix" if personal else "NULL")),
        purged=rows("SELECT COUNT(*) AS n FROM v1_events WHERE run_id = :run_id AND payload IS NULL")[0]["n"],
        heads=rows("SELECT COUNT(*) AS n FROM v1_heads WHERE run_id = :run_id")[0]["n"],
        people=rows(_PEOPLE) if personal else (),
        told=shown,
        told_left_out=shown != told,
        told_by={
            key: of if personal else _numbers_of(of)
            for key, of in told_by_clients(reader, run_id).items()
            if key in shown
        },
        unheld=nobody if run["status"] == "running" else None,
    )


def _numbers(told: Told) -> Told:
    """Of what trainers told what is no text of theirs: their keys and texts may say who they are."""
    numbers = {key: frozenset(filter(_NUMBER.fullmatch, told[key])) for key in NUMBERS_TOLD if key in told}
    return {key: values for key, values in numbers.items() if values}


def _numbers_of(told: OfClients) -> OfClients:
    """The same of who told it: what is no number is withheld, and was something all the same."""

    def shown(value: str) -> str:
        return value if value == NO_VALUE or _NUMBER.fullmatch(value) else WITHHELD

    clients: dict[str, list[str]] = {}
    for value, ids in told.clients.items():
        clients.setdefault(shown(value), []).extend(ids)
    changed = [replace(one, before=shown(one.before), now=shown(one.now)) for one in told.changed]
    return OfClients(clients=clients, changed=changed)


def shown_setting(key: str, value: Any, personal: bool) -> str | None:
    """A setting's value for the page; None where it is withheld, as every setting is that this version does not know.
    Of a path the last part stays."""
    if value is None or value == "":
        return "—"
    if personal:
        return _plain(value)
    return _plain(without_folders(key, value)) if may_be_shown(key) else None


def option(key: str) -> str:
    """A setting as it is typed; what was never one, by its name."""
    return f"--{key.replace('_', '-')}" if key in _DEFAULTS else text(key, 60)


def is_default(key: str, value: Any) -> bool:
    """Whether a setting has the value that it has where nobody says anything."""
    return key in _DEFAULTS and value == _DEFAULTS[key]


def details(row: Row) -> Mapping[str, Any]:
    """What an operator's act says beyond its kind."""
    with suppress(ValueError, RecursionError):  # of a stranger's record
        found = json.loads(row["detail"])
        return found if isinstance(found, dict) else {}
    return {}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# What stands before the colon of a rejection is a word of a closed set; what stands behind it is free text.
_KIND = """CASE
    WHEN u.decision = 'rejected' AND instr(u.reason, ':') > 0 THEN substr(u.reason, 1, instr(u.reason, ':') - 1)
    WHEN u.decision = 'rejected' THEN u.reason END"""
_ANSWERED = """
    SELECT COUNT(DISTINCT client_id) AS n FROM v1_updates WHERE run_id = :run_id AND answers_round IS NOT NULL"""
_UPDATES = """
    SELECT u.decision, {reason} AS reason, COUNT(*) AS n, COUNT(DISTINCT u.client_id) AS clients,
        MIN(u.answers_round) AS first, MAX(u.answers_round) AS last, MIN(u.client_id) AS client_id,
        SUM(m.bytes) AS bytes
    FROM v1_updates u LEFT JOIN v1_messages m USING (run_id, message_id)
    WHERE u.run_id = :run_id GROUP BY 1, 2 ORDER BY 1 NULLS FIRST, 3 DESC"""
_REGISTRATIONS = """
    SELECT identity, left_reason, COUNT(*) AS n, COUNT(DISTINCT client_id) AS clients,
        COUNT(CASE WHEN registration > 1 THEN 1 END) AS rejoined
    FROM v1_clients WHERE run_id = :run_id GROUP BY 1, 2 ORDER BY 3 DESC"""
_MESSAGES = """
    SELECT CASE WHEN m.header IN ('<METADATA>', '<SUCCESS>', '<ERROR>', '<MODEL>', '<FINISHED>') THEN m.header
            WHEN m.header IS NULL THEN 'none' ELSE 'some other' END AS header,
        m.direction, m.outcome, m.encoding, {reason} AS reason, COUNT(*) AS n, COUNT(DISTINCT m.client_id) AS clients,
        MIN(m.at) AS first, MAX(m.at) AS last
    FROM v1_messages m WHERE m.run_id = :run_id AND m.outcome <> 'ok' GROUP BY 1, 2, 3, 4, 5 ORDER BY n DESC"""
_STRANGERS = """
    SELECT reason, {prefix} AS prefix, SUM(connections) AS connections, SUM(messages) AS messages, MIN(minute) AS first,
        MAX(minute) AS last
    FROM v1_summaries WHERE run_id = :run_id GROUP BY 1, 2 ORDER BY 3 DESC"""
# By what became of the clients, and not by when nodes were gone: an attempt may be on record as aborted before the node
# is that it waited for in vain. A client has one registration at a time: the one that it had when the attempt started.
_COST_BY_NODES = """
    SELECT r.round FROM v1_rounds r
    WHERE r.run_id = :run_id AND r.status = 'aborted' AND r.reason = 'quorum' AND EXISTS (
        SELECT 1 FROM v1_client_rounds i LEFT JOIN v1_clients c ON c.run_id = i.run_id AND c.client_id = i.client_id
            AND c.left_reason = 'node' AND c.registered_at <= r.started_at AND c.left_at >= r.started_at
        WHERE i.run_id = r.run_id AND i.round = r.round AND i.attempt = r.attempt
            AND (i.decision = 'lost' OR i.participation = 'dropped' AND c.client_id IS NOT NULL))
    ORDER BY r.round, r.attempt"""
_PEOPLE = """
    SELECT c.client_id, c.registration, c.identity, c.label, n.peer_host, n.certificate_subject,
        n.certificate_fingerprint, c.info, c.registered_at, c.left_at, c.left_reason
    FROM v1_clients c LEFT JOIN v1_connections n USING (run_id, connection_id)
    WHERE c.run_id = :run_id ORDER BY c.client_id, c.registration"""
