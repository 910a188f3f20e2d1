"""The tables, for statements. Their DDL, indexes and keys stand in migrations; a test holds the two together.

``events`` is the record. Every other table is derived from it (see ``derive``) and exists to be asked, but for
``tree_nodes``, which follow from the events' digests. Units are those of the events.
"""

import math
from typing import Any

from sqlalchemy import Column, Dialect, Integer, MetaData, Table, Text
from sqlalchemy.types import REAL, TypeDecorator

from flserver.store.payloads import canonical_json


class SafeText(TypeDecorator[str]):
    """Text from anywhere. A lone surrogate, which UTF-8 cannot hold, becomes an escape, and so does U+0000, which
    PostgreSQL cannot: no peer stops the record."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class JsonText(TypeDecorator[Any]):
    """A mapping as canonical JSON text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else canonical_json(value)


class FiniteReal(TypeDecorator[float]):
    """A number; NaN and the infinities are NULL, so that one of them does not spoil a sum or a mean."""

    impl = REAL
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return value if value is not None and math.isfinite(value) else None


metadata = MetaData()


def _table(name: str, columns: str) -> Table:
    """``columns``: one ``name kind`` each; ``key`` marks the primary key's, ``?`` those that may be NULL."""
    kinds = {"text": SafeText, "json": JsonText, "real": FiniteReal, "int": Integer}
    parts = []
    for line in columns.strip().splitlines():
        for part in line.split(","):
            column, kind, *marks = part.split()
            parts.append(
                Column(
                    column,
                    kinds[kind.rstrip("?")](),
                    primary_key="key" in marks,
                    nullable=kind.endswith("?"),
                    autoincrement=False,
                )
            )
    return Table(name, metadata, *parts)


events = _table(
    "events",
    """
    seq int key, run_id text, process_id int, type text, at text
    payload text?, salt text?, payload_digest text, previous_digest text, digest text
    """,
)
runs = _table(
    "runs",
    """
    run_id text key, name text, status text, started_at text, ended_at text?, num_rounds int, min_updates int?
    model text, strategy text, seed int, config json, final_digest text?, parent_run_id text?, parent_round int?
    event_seq int
    """,
)
processes = _table(
    "processes",
    """
    process_id int key, run_id text, host text, user text, pid int
    server_version text, python_version text, torch_version text, overrides json
    started_at text, ended_at text?, exit_code int?, resumed_from_round int?
    code json?, libraries json?, cpu text?
    """,
)
nodes = _table(
    "nodes",
    """
    run_id text key, node text key, slot int, process_id int, host text, pid int, listen_host text, listen_port int
    code json, libraries json, cpu text, started_at text, ended_at text?, lost int?, end_reason text?
    """,
)
operator_events = _table(
    "operator_events",
    "event_seq int key, run_id text, process_id int, at text, kind text, detail json, actor text?, reason text?",
)
connections = _table(
    "connections",
    """
    connection_id int key, run_id text, peer_host text?, peer_port int?, client_id text?, purpose text, transport text
    certificate_subject text?, certificate_fingerprint text?
    opened_at text, closed_at text?, close_reason text?, bytes_in int?, bytes_out int?, proxy_host text?, node text?
    """,
)
clients = _table(
    "clients",
    """
    run_id text key, client_id text key, registration int key, connection_id int, identity text, data_size int
    info json?, rejoined int, registered_at text, left_at text?, left_reason text?, label text?
    metadata json?
    """,
)
messages = _table(
    "messages",
    """
    message_id int key, run_id text, connection_id int, client_id text?, round int?, direction text, header text?
    encoding text, bytes int, digest text?, at text, seconds real?, outcome text, reason text?
    """,
)
summaries = _table(
    "summaries",
    """
    event_seq int key, run_id text, minute text, prefix text?, reason text, purpose text, header text, outcome text?
    connections int, messages int, message_bytes int, answers int, failed_answers int, bytes_in int, bytes_out int
    node text?
    """,
)
updates = _table(
    "updates",
    """
    update_id int key, run_id text, message_id int, connection_id int, client_id text
    answers_round int?, answers_attempt int?, arrived_round int?, decision text?, reason text?, update_digest text?
    data_size int, weight real?, received_at text, wait_seconds real?, upload_seconds real?, update_norm real?
    identity text, parameters_norm real?, buffers_norm real?, counted_size int?, kept text?
    update_cosine real?
    """,
)
rounds = _table(
    "rounds",
    """
    run_id text key, round int key, attempt int key, status text, process_id int
    started_at text, ended_at text?, deadline_at text?, seconds real?, broadcast_seconds real?, wait_seconds real?
    aggregate_seconds real?, evaluate_seconds real?, checkpoint_seconds real?
    clients int, updates_accepted int?, data_size int?, base_digest text?, model_digest text?
    checkpoint text?, checkpoint_bytes int?, checkpoint_deleted_at text?, loss real?, accuracy real?, event_seq int?
    reason text?, arithmetic text?
    """,
)
client_rounds = _table(
    "client_rounds",
    """
    run_id text key, round int key, attempt int key, client_id text key, participation text?
    decision text?, reason text?, data_size int?, weight real?, sent_at text?, seconds real?
    bytes_in int?, bytes_out int?, update_norm real?, counted_size int?, update_cosine real?
    """,
)
round_metrics = _table(
    "round_metrics",
    "run_id text key, round int key, name text key, source text key, value real?, note text?",
)
client_metrics = _table(
    "client_metrics",
    """
    run_id text key, round int key, client_id text key, name text key, measured_on text key, source text key
    value real?, update_id int, note text?
    """,
)
heads = _table(
    "heads",
    "event_seq int key, run_id text, process_id int, at text, size int, root text, key text, note text",
)

tree_nodes = _table("tree_nodes", "level int key, place int key, hash text")
"""Hashes of complete subtrees of the tree over the events' digests (see ``tree``)."""

DERIVED: tuple[Table, ...] = (
    runs, processes, nodes, operator_events, heads, connections, clients, messages, summaries, updates, rounds,
    client_rounds, round_metrics, client_metrics,
)  # fmt: skip
"""Every table that follows from ``events``, parents before children."""
