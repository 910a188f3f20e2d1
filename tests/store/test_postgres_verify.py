"""What is changed in a record on PostgreSQL, ``verify`` finds and names, as in a file."""

import re
from collections.abc import Iterator

import pytest

from flserver.audit.report import Report
from flserver.audit.verify import Verification
from flserver.errors import UsageError
from flserver.settings.places import Address
from flserver.store import tables as t
from flserver.store.schema import ensure_head
from tests.postgres_server import PostgresDatabase, PostgresServer
from tests.store import story

pytestmark = pytest.mark.postgres


def _sound(database: PostgresDatabase) -> None:
    place = Address(database.url())
    ensure_head(place)
    story.write(place, story.sound_run())
    story.write(place, story.left_over(), run_id=story.LEFT, process_id=2)


@pytest.fixture
def sound(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """A record that holds."""
    database = postgres_server.create(postgres_server.template("flserver_sound", _sound))
    yield database
    database.drop()


def verified(database: PostgresDatabase) -> tuple[str, list[str]]:
    """The outcome, and what does not hold."""
    report, said = Report(), []
    for finding in Verification(Address(database.url()), with_checkpoints=False).run():
        report.add(finding)
        if finding.outcome != "holds":
            said.append(finding.line)
    return report.outcome, said


def test_a_record_holds_and_every_table_has_been_compared(sound: PostgresDatabase) -> None:
    assert verified(sound) == ("holds", [])
    filled = {table.name for table in t.DERIVED if sound.ask(f"SELECT 1 FROM {table.name} LIMIT 1")}
    assert filled == {table.name for table in t.DERIVED} - {"heads"}


TAMPERED = {
    "UPDATE updates SET weight = 0.6 WHERE update_id = 4": "updates.*weight",
    "UPDATE rounds SET accuracy = 0.95 WHERE round = 1 AND attempt = 2": "rounds.*accuracy",
    "UPDATE messages SET bytes = bytes + 1 WHERE message_id = 104": "messages.*bytes",
    "UPDATE runs SET status = 'failed' WHERE run_id = '{run}'": "runs.*status",
    "DELETE FROM round_metrics": "round_metrics",
    "INSERT INTO client_metrics SELECT run_id, round, client_id, 'f1', measured_on, source, value, update_id, note"
    " FROM client_metrics LIMIT 1": "client_metrics",
    "UPDATE events SET payload = replace(payload, '0.9', '0.8') WHERE type = 'RoundCommitted'": "event .*payload",
    "UPDATE events SET at = '2026-01-01T00:00:00.000000Z' WHERE seq = 9": "event 9",
    "DELETE FROM events WHERE seq = 12": "event 1[23]",
    "DELETE FROM tree_nodes; UPDATE flserver.head SET seq = seq - 1": "flserver.head",
    "CREATE TABLE notes (word TEXT)": "the table notes was added",
    "CREATE RULE quiet AS ON DELETE TO events DO INSTEAD NOTHING": "the rule quiet was added",
    "CREATE TRIGGER quiet BEFORE UPDATE ON flserver.head FOR EACH ROW EXECUTE FUNCTION"
    " suppress_redundant_updates_trigger()": "the trigger quiet was added",
    "CREATE FUNCTION public.lower(TEXT) RETURNS TEXT LANGUAGE sql RETURN $1": (
        r"the function public.lower\(text\) was added"
    ),
    "CREATE OR REPLACE FUNCTION flserver.round(value DOUBLE PRECISION, digits INTEGER) RETURNS DOUBLE PRECISION"
    " LANGUAGE sql IMMUTABLE STRICT RETURN 0.42": r"the function flserver.round\(.*was changed",
    "CREATE OR REPLACE AGGREGATE flserver.sum(BIGINT) (SFUNC = int8mul, STYPE = BIGINT, PARALLEL = SAFE)": (
        r"the aggregate flserver.sum\(bigint\) was changed"
    ),
    "DROP OPERATOR flserver.+ (NONE, TEXT)": r"the operator flserver.\+\(NONE,text\) is missing",
    "ALTER TABLE tree_nodes ALTER COLUMN place TYPE NUMERIC": "the table tree_nodes was changed",
    "ALTER TABLE runs ALTER COLUMN seed DROP NOT NULL": "the table runs was changed",
    "DROP VIEW v1_heads": "the view v1_heads is missing",
    "CREATE OR REPLACE VIEW v1_updates AS SELECT run_id, update_id, message_id, connection_id, client_id,"
    " answers_round, answers_attempt, arrived_round, decision, reason, update_digest, data_size,"
    " weight * 1.5 AS weight, received_at, wait_seconds, upload_seconds, update_norm, identity, parameters_norm,"
    " buffers_norm, counted_size, kept, update_cosine FROM updates": "the view v1_updates was changed",
}


@pytest.mark.parametrize("statement", TAMPERED)
def test_what_was_changed_is_found_and_named(sound: PostgresDatabase, statement: str) -> None:
    with sound.connect() as connection:
        connection.execute(statement.format(run=story.RUN).encode())
    outcome, said = verified(sound)
    assert outcome == "broken"
    assert any(re.search(TAMPERED[statement], line) for line in said), said


def test_there_has_to_be_a_record(empty_postgres: PostgresDatabase) -> None:
    with pytest.raises(UsageError, match="there is no database"):
        verified(empty_postgres)


def test_who_may_make_no_schema_hears_what_was_not_compared(
    sound: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    sound.ask("DO $$ BEGIN CREATE ROLE looks LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    sound.ask("GRANT pg_read_all_data TO looks")
    report = Report()
    for finding in Verification(Address(sound.url("looks")), with_checkpoints=False).run():
        report.add(finding)
    assert report.outcome == "holds"
    assert "functions, operators and aggregates were not compared" in caplog.text
