"""Evidence, as it is asked for and handed over."""

import json
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flserver.heads.keys import PrivateKey
from flserver.models.digests import sha256_of_file
from flserver.store.lock import DatabaseLock
from flserver.store.reader import Reader
from tests.cli.conftest import ROOT, Run, lines, refused
from tests.evidence.record import LOG, RUN, SECRETS, write_record


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    write_record(folder)
    return folder


def test_what_is_handed_over_by_another_way_is_printed(flserver: Run, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "it.zip"
    told = lines(flserver("--db", db, "evidence", "night:1", "--out", out))
    assert told[0] == f"{out}: 9 events of the run, 1 round, {sha256_of_file(out)}"
    unzip, check = (line.strip() for line in told[5:])
    assert unzip == "unzip -p it.zip verify.py > verify.py"
    with zipfile.ZipFile(out) as zipped:
        zipped.extract("verify.py", tmp_path)
    assert told[1] == f"verify.py: {sha256_of_file(tmp_path / 'verify.py')}"
    assert told[3] == f"key: {LOG.public}"
    head = told[2].removeprefix("head: ").partition(" ")[0]
    command = check.split()
    for under in ([], ["--head", head]):
        asked = [sys.executable, *command[1:], *under]
        done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, env={})
        assert done.returncode == 0, done.stdout + done.stderr
        *table, of, run, verdict = done.stdout.splitlines()
        made = Reader(db).committed_round(RUN, 1)
        assert f"| 1 | `{made['ended_at']}` | `{made['model_digest']}` | `160` | " in table[-1]
        newest = f"AS OF event {made['event_seq']} (`{made['ended_at']}`): what came after is NOT in it."
        assert run == f"Round 1 of run `{RUN}`, under head {head}."
        assert of.startswith("Of its events 9 are here, ")
        assert of.endswith("Withheld, or purged: 0 updates of these rounds.")
        assert verdict.startswith("HOLDS under ")
        assert verdict.endswith(f", {newest}"), "its last words"
    assert stat.S_IMODE(out.stat().st_mode) & 0o007 == 0
    newest, named = tmp_path / "newest.zip", tmp_path / "named.zip"
    lines(flserver("--db", db, "evidence", "--out", newest))
    lines(flserver("--db", db, "evidence", Reader(db).run()["name"], "--out", named))
    assert newest.read_bytes() == named.read_bytes()
    refused(flserver("--db", db, "evidence", "night:1", "--out", out), "File exists")
    refused(flserver("--db", db, "evidence", "night:7", "--out", tmp_path / "x"), "no committed round 7")
    refused(flserver("--db", db, "evidence", "nobody", "--out", tmp_path / "x"), "no run 'nobody'")
    refused(flserver("--db", db, "evidence", "night", "--out", tmp_path / "none" / "x"), "No such file")
    refused(flserver("--db", db, "evidence", "night", "--out", tmp_path / "x", "--head", out), "--head", code=1)


def test_the_model_is_signed_with_a_key_of_its_own(flserver: Run, db: Path, tmp_path: Path) -> None:
    key, out = tmp_path / "models.key", tmp_path / "it.zip"
    words = tmp_path / "words"
    words.write_text("open sesame\n")
    words.chmod(0o600)
    printed = flserver("keygen", "--for-models", "--out", key, "--passphrase-file", words)[1]
    assert (tmp_path / "models.key.pub").read_text() == printed
    assert printed.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    asked = ("--db", db, "evidence", "night", "--out", out, "--licence", "CC-BY-4.0", "--with-model", "--model-key")
    refused(flserver(*asked, key), "--model-key-passphrase-file names")
    lines(flserver(*asked, key, "--model-key-passphrase-file", words))
    with zipfile.ZipFile(out) as zipped:
        assert {"model.safetensors", "model.sig"} <= set(zipped.namelist())
        licences = json.loads(zipped.read("bom.json"))["metadata"]["component"]["licenses"]
    assert licences == [{"license": {"name": "CC-BY-4.0"}}]
    out.unlink()
    key.chmod(0o644)
    refused(flserver(*asked, key), "others can read it")
    PrivateKey.generate("a").write(tmp_path / "heads.key")
    refused(flserver(*asked, tmp_path / "heads.key"), "is no P-256 key: flserver keygen --for-models")
    refused(flserver("keygen", "--for-models", "--witness", "--out", tmp_path / "x"), "such a key has no name")
    assert not out.exists()


def test_personal_data_leave_on_record_and_while_no_server_runs(flserver: Run, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "it.zip"
    asked = ("--db", db, "evidence", "night", "--out", out, "--with-personal-data", "--actor", "bo", "--reason", "why")
    with DatabaseLock(db):
        assert flserver(*asked)[0] != 0
    assert not out.exists()
    lines(flserver(*asked))
    assert SECRETS[0].encode() in out.read_bytes()
    names, rows = Reader(db).query(
        "SELECT kind, actor, reason, detail FROM v1_operator_events ORDER BY at DESC LIMIT 1"
    )
    act = dict(zip(names, rows[0], strict=True))
    assert (act["kind"], act["actor"], act["reason"]) == ("export", "bo", "why")
    assert json.loads(act["detail"]) == {"what": "evidence", "run_id": RUN, "round": None, "file": str(out)}
    assert flserver("--db", db, "verify", "--without-checkpoints")[0] == 0, "the record holds"


def test_a_bundle_is_made_without_torch_and_beside_a_server(flserver: Run, db: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from flserver.cli.main import run_cli; code = run_cli(sys.argv[1:]);"
        "print(code, *(name for name in ('torch', 'numpy', 'model_signing', 'cyclonedx') if name in sys.modules))"
    )
    command = [sys.executable, "-c", code, "--db", str(db), "evidence", "night", "--out", str(tmp_path / "it.zip")]
    with DatabaseLock(db):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr
    shutil.rmtree(db.with_name("runs.sqlite.checkpoints"))
    lines(flserver("--db", db, "evidence", "night", "--out", tmp_path / "other.zip"))
    assert (tmp_path / "it.zip").read_bytes() == (tmp_path / "other.zip").read_bytes(), "no checkpoint is needed"
