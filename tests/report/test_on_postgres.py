"""What is read of a record for a report, and what is exported of it, is the same of one on PostgreSQL."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from flserver.audit.moving import copy_to
from flserver.record.told import told_by_trainers
from flserver.record.views_out import write_all
from flserver.report.facts import read_facts
from flserver.settings.places import Address
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.snapshot import snapshot
from tests import golden
from tests.postgres_server import PostgresDatabase

pytestmark = pytest.mark.postgres


def test_a_report_and_an_export_say_the_same(tmp_path: Path, postgres: PostgresDatabase) -> None:
    path, address = tmp_path / "runs.sqlite", Address(postgres.url())
    golden.old_record(path)
    ensure_head(path)
    copy_to(path, address)
    with snapshot(path) as here, snapshot(address) as there:
        one, other = (read_facts(each, None, place, True) for each, place in ((here, path), (there, address)))
    assert len(one.updates) > 3
    for field in fields(one):
        if field.name not in ("database", "db", "participation"):
            assert getattr(other, field.name) == getattr(one, field.name), field.name
    assert [client.row["client_id"] for client in other.participation.clients] == [
        client.row["client_id"] for client in one.participation.clients
    ]
    run = Reader(path).run()
    assert told_by_trainers(Reader(address), run["run_id"]) == told_by_trainers(Reader(path), run["run_id"])
    made = [
        write_all(Reader(place), run, form, tmp_path / f"{name}-{form}")
        for form in ("csv", "jsonl")
        for name, place in (("here", path), ("there", address))
    ]
    for here_said, there_said in ((made[0], made[1]), (made[2], made[3])):
        assert {name: {**view, "sha256": None} for name, view in there_said["views"].items()} == {
            name: {**view, "sha256": None} for name, view in here_said["views"].items()
        }
        assert there_said["record"] == here_said["record"]
    for file in (tmp_path / "here-jsonl").glob("*.jsonl"):
        lines = [
            sorted((place / file.name).read_text().splitlines()) for place in (file.parent, tmp_path / "there-jsonl")
        ]
        assert [json.loads(line) for line in lines[0]] == [json.loads(line) for line in lines[1]], file.name
