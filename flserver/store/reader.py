"""Everything that is read. Each call opens a connection that cannot write, sees one state of the database, and closes.

It never checkpoints the WAL, works while a server writes, and reads what a server left, one that was killed too, also
where nothing can be written.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from flserver.errors import Damaged, UsageError
from flserver.events import RunStarted
from flserver.events.totals import Totals
from flserver.events.words import MetricSource
from flserver.store import chain
from flserver.store.chain import Link, payload_digest
from flserver.store.lineage import RESTING
from flserver.store.reading import Readable
from flserver.store.reading import Row as Row
from flserver.store.references import NEWEST, no_such_run, the_one
from flserver.store.totals import read_totals

CHAIN_PAGE = 1000  # events in memory at once


@dataclass(frozen=True, kw_only=True)
class KnownClient:
    """A client that registered in the run: its latest number of training samples, how often it registered, and whether
    it ``took_part``: who left before the join window closed has not."""

    client_id: str
    data_size: int
    registration: int
    took_part: bool


@dataclass(frozen=True, kw_only=True)
class AcceptedNorms:
    """In how many rounds updates were accepted, and the largest of their norms: of parameters, and of buffers."""

    rounds: int
    parameters: float
    buffers: float


@dataclass(frozen=True, kw_only=True)
class IdSeeds:
    """The first free number of each kind of id, from 1. Ids are unique in a database, whatever the run."""

    message_id: int
    connection_id: int
    update_id: int
    process_id: int


class Reader(Readable):
    """Answers what the server and its commands ask of the record."""

    def runs(self) -> list[Row]:
        """All rows of v1_runs, the newest first."""
        return self._rows(f"SELECT * FROM v1_runs {_NEWEST_FIRST}")

    def run(self, ref: str | None = None, *, exact: bool = False) -> Row:
        """The row of v1_runs of the run that ``ref`` means: one with that run_id, else the newest of that name, else
        for ``newest`` the newest, else the one whose run_id begins so. Left out it is the newest; ``exact`` takes a
        run_id or a name alone.

        Raises UsageError, with names that are like it, where there is none, and with the candidates for several.
        """
        found = self.newest_run(ref)
        if found is None and ref == NEWEST and not exact:
            found = self.newest_run()
        if found is None and ref and not exact:
            found = the_one(ref, self._rows(_BEGUN_SO, ref=ref), self.place)
        if found is None:
            names = self._rows(f"SELECT name, run_id FROM v1_runs {_NEWEST_FIRST}")
            raise no_such_run(ref, self.place, names)
        return found

    def newest_run(self, ref: str | None = None) -> Row | None:
        """The row of v1_runs of the newest run, or of the one that ``ref`` means, as in :meth:`run`; None where there
        is none."""
        return self._first(
            "SELECT * FROM v1_runs WHERE :ref IS NULL OR :ref IN (v1_runs.run_id, v1_runs.name)"
            f" ORDER BY v1_runs.run_id = :ref DESC, {_BEGAN} LIMIT 1",
            ref=ref,
        )

    def code(self, run_id: str) -> Mapping[str, str]:
        """The digests of the files of the operator's code when the run began, by the setting that names it; empty where
        they are not on record."""
        query = "SELECT payload FROM v1_events WHERE run_id = :run AND type = :type AND payload IS NOT NULL"
        row = self._first(query, run=run_id, type=RunStarted.__name__)
        # Where it was tampered with, the chain says so.
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            started = json.loads(row["payload"]) if row else {}
            return {str(key): str(value) for key, value in started.get("code", {}).items()}
        return {}

    def restored_since(self, run_id: str) -> bool:
        """Whether the database was restored from a backup after the run's last server process had begun."""
        query = """
            SELECT (SELECT MAX(at) FROM v1_operator_events WHERE kind = 'restore')
                > COALESCE((SELECT MAX(started_at) FROM v1_processes WHERE run_id = :run), '') AS since"""
        return bool(self._rows(query, run=run_id)[0]["since"])

    def left_over_runs(self) -> list[str]:
        """The run_ids still ``running``: while nobody has the lock, their processes are gone."""
        return [row["run_id"] for row in self._rows("SELECT run_id FROM runs WHERE status = 'running'")]

    def min_updates(self, run_id: str) -> int | None:
        """The least number of updates that commits a round, as settled in the run's first join window; None where it
        is not settled yet, or there is no such run."""
        row = self._first("SELECT min_updates FROM runs WHERE run_id = :run", run=run_id)
        return row["min_updates"] if row else None

    def committed_rounds(self, run_id: str) -> list[Row]:
        """The rows of v1_rounds that are committed, in ascending order of the round."""
        return self._rows(f"{_COMMITTED} ORDER BY round", run=run_id)

    def last_committed(self, run_id: str) -> Row | None:
        """The row of v1_rounds of the highest committed round; None where there is none."""
        return self._first(f"{_COMMITTED} ORDER BY round DESC LIMIT 1", run=run_id)

    def committed_round(self, run_id: str, number: int | None = None) -> Row:
        """The row of v1_rounds of committed round ``number``, or the last. Raises UsageError where there is none."""
        rows = [row for row in self.committed_rounds(run_id) if number is None or row["round"] == number]
        if not rows:
            raise UsageError(f"run {run_id} has no committed round{'' if number is None else f' {number}'}")
        return rows[-1]

    def kept_updates(self, run_id: str) -> list[Row]:
        """The rows of v1_updates whose tensors are kept, in the order of their rounds."""
        query = "SELECT * FROM v1_updates WHERE run_id = :run AND kept IS NOT NULL ORDER BY answers_round, update_id"
        return self._rows(query, run=run_id)

    def kept_rounds(self, run_id: str) -> frozenset[int]:
        """Of which rounds updates are kept."""
        return frozenset(row["answers_round"] for row in self.kept_updates(run_id))

    def accepted(self, run_id: str, number: int) -> list[Row]:
        """The rows of v1_updates that round ``number`` was made of, in ascending order of the clients' ids."""
        query = """
            SELECT * FROM v1_updates WHERE run_id = :run AND answers_round = :number AND decision = 'accepted'
            ORDER BY client_id"""
        return self._rows(query, run=run_id, number=number)

    def resting_on(self, run_id: str, number: int) -> list[Row]:
        """The committed rounds whose models rest on that of round ``number`` of the run, as in ``lineage.RESTING``."""
        rows = self._rows(RESTING, seeds=json.dumps([[run_id, number]]), client=None)
        return [row for row in rows if (row["run_id"], row["round"]) != (run_id, number)]

    def resting_on_client(self, client_id: str) -> list[Row]:
        """The committed rounds whose models rest on any accepted update of the client's, as in ``lineage.RESTING``."""
        query = """
            SELECT run_id, MIN(answers_round) AS number FROM v1_updates
            WHERE client_id = :client AND decision = 'accepted' GROUP BY run_id"""
        seeds = [[row["run_id"], row["number"]] for row in self._rows(query, client=client_id)]
        return self._rows(RESTING, seeds=json.dumps(seeds), client=client_id)

    def measured(self, run_id: str, number: int, source: MetricSource) -> Mapping[str, float]:
        """What was measured on the model of round ``number``, here or by the clients (averaged over them), by the
        metric's name: loss in nats, accuracy from 0 to 1, NaN and the infinities as what they are."""
        query = """
            SELECT name, value, note FROM v1_round_metrics
            WHERE run_id = :run AND round = :number AND source = :source"""
        rows = self._rows(query, run=run_id, number=number, source=source)
        return {row["name"]: float(row["note"] or "nan") if row["value"] is None else row["value"] for row in rows}

    def not_finite(self, run_id: str) -> Mapping[tuple[int, str], float]:
        """What was measured here of the run's models and is no number that a column holds, by round and metric's name:
        NaN, or infinite."""
        query = "SELECT * FROM v1_round_metrics WHERE run_id = :run AND source <> 'clients' AND value IS NULL"
        rows = self._rows(query, run=run_id)  # an older record has no note
        return {(row["round"], row["name"]): float(row.get("note") or "nan") for row in rows}

    def accepted_norms(self, run_id: str, upto: int | None = None) -> AcceptedNorms:
        """How far the accepted updates were of which the run's model is made: its own up to round ``upto`` (None: all),
        and its parents' where it is a child. An older record has the whole norm only, which is more than each."""
        query = """
            WITH RECURSIVE line (run_id, upto) AS (
                SELECT CAST(:run AS TEXT), CAST(:upto AS BIGINT)
                UNION ALL SELECT runs.parent_run_id, runs.parent_round FROM line JOIN runs USING (run_id)
                WHERE runs.parent_run_id IS NOT NULL AND runs.config ->> 'resume_from' IS NOT NULL)
            SELECT COUNT(DISTINCT run_id || ' ' || answers_round) AS rounds,
                COALESCE(MAX(COALESCE(parameters_norm, update_norm)), 0.0) AS parameters,
                COALESCE(MAX(COALESCE(buffers_norm, update_norm)), 0.0) AS buffers
            FROM line JOIN v1_updates USING (run_id)
            WHERE decision = 'accepted' AND (upto IS NULL OR answers_round <= upto)"""
        return AcceptedNorms(**self._rows(query, run=run_id, upto=upto)[0])

    def nodes_named(self, run_id: str) -> int:
        """The highest number in the name of a node that the run has had; 0 where it had none. A name that is none of
        ours has no number."""
        names = self._rows("SELECT node FROM nodes WHERE run_id = :run", run=run_id)
        found = (re.search("-([0-9]{1,9})$", row["node"]) for row in names)
        return max((int(number[1]) for number in found if number is not None), default=0)

    def next_attempt(self, run_id: str, number: int) -> int:
        """The first attempt of round ``number`` that has no row yet, from 1."""
        query = "SELECT COALESCE(MAX(attempt), 0) + 1 AS next FROM rounds WHERE run_id = :run AND round = :number"
        return int(self._rows(query, run=run_id, number=number)[0]["next"])

    def participants(self, run_id: str) -> list[KnownClient]:
        """Every client that ever registered in the run, in ascending order of the ids."""
        query = """
            WITH settled AS MATERIALIZED (SELECT at FROM events WHERE run_id = :run AND type = 'QuorumSettled')
            SELECT client_id, data_size, registration,
                EXISTS (SELECT 1 FROM client_rounds AS r WHERE r.run_id = :run AND r.client_id = clients.client_id)
                OR EXISTS (SELECT 1 FROM clients AS there JOIN settled
                    ON at >= there.registered_at AND (at <= there.left_at OR there.left_at IS NULL)
                    WHERE there.run_id = :run AND there.client_id = clients.client_id) AS took_part
            FROM clients
            JOIN (SELECT client_id, MAX(registration) AS registration FROM clients
                  WHERE run_id = :run GROUP BY client_id) AS latest USING (client_id, registration)
            WHERE run_id = :run ORDER BY client_id"""
        return [KnownClient(**{**row, "took_part": bool(row["took_part"])}) for row in self._rows(query, run=run_id)]

    def answers(self, run_id: str, round: int) -> list[tuple[str, int, int]]:
        """Whose updates answer which models of that round and of later ones: client, round, attempt."""
        query = """SELECT client_id, answers_round, answers_attempt FROM v1_updates
            WHERE run_id = :run AND answers_round >= :round"""
        return [(*row.values(),) for row in self._rows(query, run=run_id, round=round)]

    def id_seeds(self) -> IdSeeds:
        """The ids that a new server process begins with."""
        tables = {"message_id": "messages", "connection_id": "connections", "update_id": "updates"}
        tables["process_id"] = "processes"
        columns = [f"(SELECT COALESCE(MAX({key}), 0) + 1 FROM {table}) AS {key}" for key, table in tables.items()]
        return IdSeeds(**self._rows("SELECT " + ", ".join(columns))[0])

    def totals(self, run_id: str) -> Totals:
        """The run's counts, sums and durations, all of one moment."""
        with self._errors(), self._connect() as connection:
            return read_totals(connection, run_id)

    def damage(self) -> str | None:
        """What is wrong with the database's form, the first thing of it; None where it is sound, which says nothing of
        what stands in it."""
        with self._errors(), self._connect() as connection:
            return self._database.damage(connection)

    def head(self) -> Link | None:
        """The last event's place in the chain; None where there is no event."""
        return self._link("ORDER BY seq DESC LIMIT 1")

    def event(self, seq: int) -> Link | None:
        """The place in the chain of the event with that number; None where there is none."""
        return self._link("WHERE seq = :seq", seq=seq)

    def payload(self, seq: int) -> str | None:
        """The payload of that event; None where it was purged. Raises Damaged where it is not what the chain has."""
        link, row = self.event(seq), self._first("SELECT payload, salt, digest FROM events WHERE seq = :seq", seq=seq)
        with suppress(ValueError, TypeError):  # a salt that is not hex
            if link is None or row is None or link.digest() != row["digest"]:
                pass
            elif row["payload"] is None:
                return None
            elif payload_digest(row["salt"], row["payload"]) == link.payload_digest:
                return str(row["payload"])
        raise Damaged(f"{self._database}: event {seq} is not what the chain has there: flserver verify says more")

    def _link(self, which: str, **parameters: Any) -> Link | None:
        row = self._first(f"SELECT {', '.join(Link.__dataclass_fields__)} FROM events {which}", **parameters)
        return None if row is None else Link(**row)

    def verify_chain(self) -> chain.Verification:
        """Check the hash chain over all events of the database."""
        with self._errors(), self._connect() as connection:
            rows = connection.execution_options(yield_per=CHAIN_PAGE).execute(text("SELECT * FROM events ORDER BY seq"))
            return chain.verify({**row} for row in rows.mappings())


# Over views alone, as far as people ask it: who may only read those can ask it too.
_BEGAN = """
    (SELECT MIN(seq) FROM v1_events AS began WHERE began.run_id = v1_runs.run_id AND began.type = 'RunStarted')
    DESC NULLS LAST"""
_NEWEST_FIRST = f"ORDER BY {_BEGAN}"
_COMMITTED = "SELECT * FROM v1_rounds WHERE run_id = :run AND status = 'committed'"
_BEGUN_SO = f"SELECT * FROM v1_runs WHERE substr(v1_runs.run_id, 1, length(:ref)) = :ref {_NEWEST_FIRST}"
