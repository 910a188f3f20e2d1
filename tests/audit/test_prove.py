"""What an operator proves is what the site at the other end checks, and nothing else passes there."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flserver.audit import prove
from flserver.errors import HeadError, Rewritten, UsageError
from flserver.heads.keys import PrivateKey, opened
from flserver.heads.note import Note
from flserver.store.schema import ensure_head
from flserver.store.tree_reader import TreeReader
from flserver.witness.check import check_file
from flserver.witness.view import extended
from tests.signed_record import LOG, signed_record
from tests.store import story

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signed_record(tmp_path_factory.mktemp("signed"))


@pytest.fixture
def reader(db: Path) -> TreeReader:
    return TreeReader(db)


def heads(reader: TreeReader) -> list[Note]:
    return [Note.parse(row["note"]) for row in reader.heads()]


def test_every_head_extends_every_earlier_one(reader: TreeReader) -> None:
    signed = heads(reader)
    for later, head in enumerate(signed):
        for earlier in signed[: later + 1]:
            seen = opened(earlier, LOG.public)
            for old in (seen, seen.size):
                answer = prove.extension(reader, old, head)
                assert extended(seen, answer, LOG.public) == opened(head, LOG.public)
    with pytest.raises(HeadError, match="and not of 100000"):
        prove.extension(reader, 100000, signed[-1])
    assert prove.newest_head(reader) == signed[-1]


def test_another_records_head_is_not_extended(reader: TreeReader, tmp_path: Path) -> None:
    head = heads(reader)[-1]
    size = opened(head, LOG.public).size
    for other in (LOG.sign(size, bytes(32)), LOG.sign(size + 9, bytes(32))):
        with pytest.raises(Rewritten, match="this record"):
            prove.extension(reader, 3, other)
        with pytest.raises(Rewritten, match="this record"):
            prove.inclusion(reader, 3, other)
    with pytest.raises(Rewritten, match="the first 3 events of this record are not those"):
        prove.extension(reader, opened(LOG.sign(3, bytes(32)), LOG.public), head)


def test_events_updates_and_rounds_are_proven(reader: TreeReader, tmp_path: Path) -> None:
    head = prove.newest_head(reader)
    path = tmp_path / "proof"
    for what, kind in (
        ("1", "RunStarted"),
        ("update:4", "UpdateReceived"),
        ("night:1", "RoundCommitted"),
        (f"{story.RUN}:0", "RoundCommitted"),
    ):
        seq = prove.event_of(reader, what)
        path.write_text(str(prove.inclusion(reader, seq, head)))
        checked = check_file(path, LOG.public, head)
        assert (checked.client, checked.types) == (None, {kind: 1})
    with pytest.raises(HeadError, match="is in a later one"):
        prove.inclusion(reader, 300, heads(reader)[0])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("x", "no event's number"),
        ("night:x", "no event's number"),
        ("nothing:1", "no run 'nothing'"),
        ("night:9", "no committed round 9"),
        ("update:99", "no update 99"),
    ],
)
def test_what_there_is_not_is_said(reader: TreeReader, what: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prove.event_of(reader, what)
    with pytest.raises(UsageError, match="no event 100000"):
        prove.inclusion(reader, 100000, prove.newest_head(reader))


def test_a_record_without_heads_proves_nothing(tmp_path: Path) -> None:
    ensure_head(tmp_path / "runs.sqlite")
    with pytest.raises(UsageError, match="no head is signed"):
        prove.newest_head(TreeReader(tmp_path / "runs.sqlite"))


# --- a client's own rows ---------------------------------------------------------------------------------------------


def written(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rows(reader: TreeReader) -> Rows:
    return [json.loads(line) for line in prove.own_rows(reader, "1", prove.newest_head(reader))]


def test_a_sites_own_rows_are_those_about_it_alone(db: Path, reader: TreeReader, rows: Rows, tmp_path: Path) -> None:
    head = prove.newest_head(reader)
    checked = check_file(written(tmp_path / "rows", rows), LOG.public, head)
    assert checked.client == "1"
    assert checked.head == opened(head, LOG.public)
    with closing(sqlite3.connect(db)) as connection:
        query = "SELECT type, COUNT(*) FROM events WHERE json_extract(payload, '$.client_id') = '1' GROUP BY 1"
        assert checked.types == dict(connection.execute(query))
    assert {"ClientRegistered", "UpdateReceived", "MessageReceived", "ClientLeft"} <= checked.types.keys()
    for row in rows[1:]:
        payload = json.loads(row["payload"])
        assert payload["client_id"] == "1"
        assert not {"clients", "outcomes", "not_sent"} & payload.keys(), "nothing that is about others too"


def test_rows_are_proven_under_the_head_that_the_site_has(reader: TreeReader, rows: Rows, tmp_path: Path) -> None:
    early = heads(reader)[2]
    some = [json.loads(line) for line in prove.own_rows(reader, "1", early)]
    assert 1 < len(some) < len(rows)
    path = written(tmp_path / "rows", some)
    check_file(path, LOG.public, early)
    with pytest.raises(HeadError, match="flserver prove takes --head too"):
        check_file(path, LOG.public, prove.newest_head(reader))
    with pytest.raises(HeadError, match="another one than --head: its log signed both"):
        check_file(path, LOG.public, LOG.sign(opened(early, LOG.public).size, bytes(32)))


def another_payload(rows: Rows) -> None:
    rows[3]["payload"] = rows[3]["payload"].replace('"at":"2', '"at":"3')


def another_salt(rows: Rows) -> None:
    rows[3]["salt"] = "00" * 16


def another_event(rows: Rows) -> None:
    rows[3]["event"]["at"] = "2026-01-01T00:00:00.000000Z"


def another_place(rows: Rows) -> None:
    rows[3]["event"]["seq"] += 1


def shorter_proof(rows: Rows) -> None:
    rows[3]["proof"].pop()


def another_client(rows: Rows) -> None:
    rows[0]["client"] = "2"


def another_signer(rows: Rows) -> None:
    checkpoint = opened(Note.parse(rows[0]["head"]), LOG.public)
    rows[0]["head"] = str(PrivateKey.generate(LOG.public.name).sign(checkpoint.size, checkpoint.root))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_payload, "the payload is not the one on record"),
        (another_salt, "the payload is not the one on record"),
        (another_event, "is not in the record"),
        (another_place, "is not in the record|stands behind"),
        (shorter_proof, "proof is too short|is not in the record"),
        (another_client, "is not about client 2"),
        (another_signer, "its key has not signed"),
        (lambda rows: rows[3].update(proof="x"), "has no payload, salt and proof"),
        (lambda rows: rows[3].update(event={}), "without the columns"),
        (lambda rows: rows[3]["event"].update(seq=True), "without the columns"),
        (lambda rows: rows.append(rows[1]), "stands behind"),
        (lambda rows: rows[0].update(format="x"), "no file that flserver prove has made"),
        (lambda rows: rows[0].update(head="x"), "what should be a signed note"),
    ],
)
def test_rows_that_were_changed_are_found(
    rows: Rows, tmp_path: Path, change: Callable[[Rows], object], said: str
) -> None:
    change(rows)
    with pytest.raises(HeadError, match=said):
        check_file(written(tmp_path / "rows", rows), LOG.public, None)


@pytest.mark.parametrize("text", ["", "x\n", "[]\n", "c2sp.org/tlog-proof@v1\nindex 0\n\n", "\udcff"])
def test_what_is_no_proof_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(HeadError, match=str(path)):
        check_file(path, LOG.public, None)
    with pytest.raises(UsageError, match="No such file"):
        check_file(tmp_path / "none", LOG.public, None)
