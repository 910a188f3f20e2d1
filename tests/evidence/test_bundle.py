"""What is in a bundle, what is not, and that the tools of its formats take it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from model_signing import verifying

from flserver.aggregation.checks import state_digest
from flserver.errors import CheckpointError, HeadError, UsageError
from flserver.evidence import zipped
from flserver.evidence.anchor import UNSIGNED, anchor, read_head
from flserver.evidence.make import VERIFIER, Asked, make
from flserver.heads.model_keys import ModelKey
from flserver.models.digests import sha256_of_file
from flserver.store.tree_reader import TreeReader
from tests.evidence.conftest import Verifies
from tests.evidence.record import HOSTILE, METRIC, RUN, SECRETS, weights
from tests.evidence.zips import canonical, files_of


def events_of(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [json.loads(line) for line in files["events.jsonl"].splitlines()]


def test_a_run_s_bundle_has_all_its_events_and_only_its_own(recorded: Path, bundle: bytes) -> None:
    files = files_of(bundle)
    size = int(files["head"].split(b"\n")[1])
    with closing(sqlite3.connect(recorded / "runs.sqlite")) as connection:
        query = "SELECT seq FROM events WHERE run_id = ? AND seq <= ? ORDER BY seq"
        expected = [seq for (seq,) in connection.execute(query, (RUN, size))]
    assert [row["event"]["seq"] for row in events_of(files)] == expected  # type: ignore[index]
    assert sum("proof" in row for row in events_of(files)) == 1, "the chain leads to the last one"
    assert files["verify.py"] == VERIFIER.read_bytes()


def test_a_round_s_bundle_has_what_the_round_is_made_of(db: Path, tmp_path: Path, verifies: Verifies) -> None:
    made = make(db, tmp_path / "one.zip", Asked.parse("night:1"))
    files = files_of((tmp_path / "one.zip").read_bytes())
    kinds = [row["event"]["type"] for row in events_of(files)]  # type: ignore[index]
    assert sorted(set(kinds)) == ["AttemptAborted", "AttemptStarted", "RoundCommitted", "UpdateReceived"]
    assert (len(kinds), made.events, made.rounds) == (9, 9, 1)
    assert [name for name in files if name.startswith("statements/")] == ["statements/round-000001.json"]
    assert verifies((tmp_path / "one.zip").read_bytes())[0] == 0


def test_a_statement_names_the_model_and_what_it_was_made_of(recorded: Path, bundle: bytes) -> None:
    files = files_of(bundle)
    said = json.loads(files["statements/round-000001.json"])
    reader = TreeReader(recorded / "runs.sqlite")
    made = reader.committed_round(RUN, 1)
    assert said["subject"][0]["digest"] == {"sha256": made["model_digest"].removeprefix("sha256:")}
    predicate = said["predicate"]
    assert predicate["base_digest"] == reader.committed_round(RUN, 0)["model_digest"]
    assert (predicate["arithmetic"], predicate["attempt"], predicate["seq"]) == ("exact-sum-1", 2, made["event_seq"])
    materials = {one["annotations"]["client_id"]: one for one in predicate["materials"]}
    assert materials.keys() == {"1", HOSTILE}, "neither the late, nor the rejected, nor the aborted"
    for client, weight in (("1", 0.625), (HOSTILE, 0.375)):
        algorithm, _, digest = state_digest(weights(1, client)).partition(":")
        assert materials[client]["digest"] == {algorithm: digest}
        assert materials[client]["annotations"]["weight"] == weight
    assert materials[HOSTILE]["annotations"]["counted_size"] == 60
    checkpoints = json.loads(files["checkpoints.json"])["checkpoints"]
    assert [(one["round"], one["model_digest"]) for one in checkpoints] == [
        (row["round"], row["model_digest"]) for row in reader.committed_rounds(RUN)
    ]


def test_statements_are_in_toto_s_and_the_bill_of_materials_is_cyclonedx_s(bundle: bytes) -> None:
    files = files_of(bundle)
    for name in (name for name in files if name.startswith("statements/")):
        read = json_format.Parse(files[name], statement_pb2.Statement())
        Statement.copy_from_pb(read).validate()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(files["bom.json"].decode()) is None
    component = json.loads(files["bom.json"])["metadata"]["component"]
    assert (component["type"], component["licenses"]) == (
        "machine-learning-model",
        [{"license": {"name": "not stated"}}],
    )
    broken = files["bom.json"].replace(b"machine-learning-model", b"machine-learning")
    assert validator.validate_str(broken.decode()) is not None, "the validator looks"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_model_s_signature_is_one_of_model_signing_s(recorded: Path, bundle: bytes, tmp_path: Path) -> None:
    files = files_of(bundle)
    for name in ("model.safetensors", "model.sig"):
        (tmp_path / name).write_bytes(files[name])
    config = verifying.Config().use_elliptic_key_verifier(public_key=recorded / "models.key.pub")
    config.verify(tmp_path / "model.safetensors", tmp_path / "model.sig")
    other = ModelKey.generate().write(tmp_path / "other.key")
    with pytest.raises(ValueError, match="Key mismatch"):
        verifying.Config().use_elliptic_key_verifier(public_key=other).verify(
            tmp_path / "model.safetensors", tmp_path / "model.sig"
        )
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"] + b"x")
    with pytest.raises(ValueError, match="mismatch"):
        config.verify(tmp_path / "model.safetensors", tmp_path / "model.sig")


def test_a_bill_of_materials_says_what_was_counted_and_when(bundle: bytes) -> None:
    component = json.loads(files_of(bundle)["bom.json"])["metadata"]["component"]
    (data,) = component["modelCard"]["modelParameters"]["datasets"]
    expected = "samples, as they were counted, of 2 clients in round 2; the server has not seen them"
    assert data["description"].endswith(expected)
    with pytest.raises(UsageError, match="is no SPDX expression"):
        Asked(run="night", licence="do what you want, really")


def test_nothing_in_a_bundle_has_the_run_s_name_which_no_event_in_it_says(bundle: bytes) -> None:
    files = files_of(bundle)
    assert json.loads(files["bom.json"])["metadata"]["component"]["name"] == RUN
    assert not [name for name, data in files.items() if b"night" in data and name != "verify.py"]


def test_a_file_that_would_be_too_large_is_named_beforehand(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipped, "MOST_WHOLE", 2**10)
    with pytest.raises(UsageError, match=r"is larger than 0 MiB, and no bundle holds that: ask for one round"):
        make(db, tmp_path / "x.zip", Asked(run="night"))
    monkeypatch.setattr(zipped, "MOST_WHOLE", 2**24)
    monkeypatch.setattr(zipped, "MOST_FILES", 5)
    with pytest.raises(UsageError, match="too many rounds"):
        make(db, tmp_path / "x.zip", Asked(run="night"))
    assert not (tmp_path / "x.zip").exists()


def test_a_record_of_a_newer_flserver_is_refused(db: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
        connection.commit()
    with pytest.raises(UsageError, match="newer flserver"):
        make(db, tmp_path / "x.zip", Asked(run="night"))


def test_a_head_with_a_name_that_no_bundle_has_is_refused(db: Path, tmp_path: Path) -> None:
    head = anchor(TreeReader(db), None, 0).text
    named = head.replace(head.partition("\n")[0], "é.example", 1)
    with pytest.raises(HeadError, match="not ASCII"):
        make(db, tmp_path / "x.zip", Asked(run="night", head=named))


def test_the_same_record_gives_the_same_bytes(db: Path, tmp_path: Path) -> None:
    made = [make(db, tmp_path / f"{name}.zip", Asked(run="night", model=True)) for name in "ab"]
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert made[0] == made[1]
    assert sha256_of_file(tmp_path / "a.zip") == f"sha256:{made[0].digest}"


def test_what_could_say_who_somebody_is_stays_out_unless_it_is_asked_for(
    db: Path, tmp_path: Path, bundle: bytes, verifies: Verifies
) -> None:
    make(db, tmp_path / "all.zip", Asked(run="night", personal=True))
    everything = (tmp_path / "all.zip").read_bytes()
    assert verifies(everything)[0] == 0
    for secret in SECRETS:
        assert secret.encode() not in bundle, secret
        assert secret.encode() in everything, secret


def test_names_that_clients_chose_are_text_and_nothing_else(bundle: bytes) -> None:
    files = files_of(bundle)
    page = files["SUMMARY.md"].decode()
    assert page.isascii() or "—" in page, "but for the mark of a signature"
    lines = page.splitlines()
    assert [line for line in lines if line.startswith("#")] == [lines[0]]
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert all(row.count("|") == 7 and row.count("`") % 2 == 0 for row in rows)
    assert "Proven" in page, "it is told, escaped"
    for forbidden in ("\x1b", "<", "\u202e", "# Proven", METRIC):
        assert forbidden not in page
    for name, data in files.items():
        if name.endswith(".json"):
            assert canonical(json.loads(data)) == data, "one form: no key twice, nothing between the lines"


def test_a_round_with_purged_updates_says_so_and_holds(db: Path, tmp_path: Path, verifies: Verifies) -> None:
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE events SET payload = NULL, salt = NULL WHERE type = 'UpdateReceived'")
        connection.commit()
    make(db, tmp_path / "one.zip", Asked.parse("night:1"))
    made = (tmp_path / "one.zip").read_bytes()
    assert verifies(made)[0] == 0
    materials = json.loads(files_of(made)["statements/round-000001.json"])["predicate"]["materials"]
    assert [one["digest"] for one in materials] == [{}, {}], "it had the payload"
    assert [one["annotations"]["weight"] for one in materials] == [0.625, 0.375]


def test_a_record_whose_heads_nobody_signs_has_a_head_too(db: Path, tmp_path: Path, verifies: Verifies) -> None:
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("DELETE FROM heads")
        connection.commit()
    made = make(db, tmp_path / "it.zip", Asked(run="night"))
    assert made.anchor.key is None
    assert made.anchor.text.startswith(f"{UNSIGNED}\n")
    data = (tmp_path / "it.zip").read_bytes()
    assert verifies(data, "--head", made.anchor, key=False)[0] == 0
    assert verifies(data)[0] == 1, "no key has signed it"
    (tmp_path / "head").write_bytes(files_of(data)["head"])
    assert read_head(tmp_path / "head") == made.anchor.text
    assert verifies(data, "--head", tmp_path / "head", key=False)[0] == 0


def test_a_bundle_is_about_the_head_that_its_reader_has(db: Path, tmp_path: Path, verifies: Verifies) -> None:
    reader = TreeReader(db)
    early = next(row for row in reader.heads() if row["size"] >= reader.committed_round(RUN, 1)["event_seq"])
    (tmp_path / "early").write_text(early["note"])
    assert read_head(tmp_path / "early") == early["note"]
    make(db, tmp_path / "new.zip", Asked(run="night"))
    code, said = verifies((tmp_path / "new.zip").read_bytes(), "--head", tmp_path / "early", key=False)
    assert (code, "--head is of another size" in said) == (1, True)
    made = make(db, tmp_path / "early.zip", Asked(run="night", head=early["note"]))
    assert (made.rounds, made.anchor.key) == (2, early["key"])
    code, said = verifies((tmp_path / "early.zip").read_bytes(), "--head", tmp_path / "early")
    seen = [row["event"] for row in events_of(files_of((tmp_path / "early.zip").read_bytes()))]
    last = f"AS OF event {seen[-1]['seq']} (`{seen[-1]['at']}`): what came after is NOT in it."  # type: ignore[index]
    assert (code, said.splitlines()[-1].endswith(f", {last}")) == (0, True), "round 2 was there when it was made"
    with pytest.raises(HeadError, match="came with event"):
        make(db, tmp_path / "late.zip", Asked(run="night", round=2, head=early["note"]))
    first = reader.heads()[0]["note"]
    with pytest.raises(HeadError, match="before the first round of run night"):
        make(db, tmp_path / "late.zip", Asked(run="night", head=first))
    assert not (tmp_path / "late.zip").exists()


def test_a_round_after_the_newest_signed_head_has_one_that_nobody_signed(db: Path) -> None:
    reader = TreeReader(db)
    newest = reader.heads()[-1]["size"]
    assert anchor(reader, None, newest).key is not None
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("DELETE FROM heads WHERE size = ?", (newest,))
        connection.commit()
    assert anchor(reader, None, newest).key is None


def test_a_head_that_was_typed_is_told_from_a_file() -> None:
    for typed in (f"sha256:{'0a' * 32}", f"438:{'0a' * 32}"):
        with pytest.raises(UsageError, match="this is the chain's head, its last event's digest, and not the tree's"):
            read_head(Path(typed))
    with pytest.raises(UsageError, match="this is the tree's head without its text; --head takes a file"):
        read_head(Path(f"438:{'A' * 43}="))
    with pytest.raises(UsageError, match="No such file"):
        read_head(Path("none"))


def test_what_cannot_be_given_is_said(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.zip"
    for asked, said in (("nobody", "no run"), ("night:9", "no committed round 9")):
        with pytest.raises(UsageError, match=said):
            make(db, out, Asked.parse(asked))
    (file,) = db.with_name("runs.sqlite.checkpoints").glob(f"{RUN}/round-000002-*")
    file.write_bytes(b"another")
    with pytest.raises(CheckpointError, match="does not match its digest"):
        make(db, out, Asked(run="night", model=True))
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE events SET payload = replace(payload, '0', '1') WHERE type = 'RoundCommitted'")
        connection.commit()
    with pytest.raises(HeadError, match="flserver verify says whether the record holds"):
        make(db, out, Asked(run="night"))
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(UsageError, match="File exists"):
        make(db, out, Asked.parse("other"))
    assert out.read_text() == "mine"
