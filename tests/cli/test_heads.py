"""Keys, proofs and the witness, as they are typed."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flserver.heads.keys import PrivateKey, cosigned_at, opened
from flserver.heads.note import WITNESS, Note, PublicKey
from flserver.heads.proofs import Extension
from flserver.store.tree_reader import TreeReader
from tests.cli.conftest import ROOT, Run, lines, refused
from tests.signed_record import LOG, signed_record


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    return signed_record(tmp_path)


def test_keys_are_made_printed_and_never_written_over(flserver: Run, tmp_path: Path) -> None:
    key = tmp_path / "key"
    (printed,) = lines(flserver("keygen", "--out", key, "--name", "log.example/a"))
    assert (tmp_path / "key.pub").read_text() == f"{printed}\n"
    assert PublicKey.parse(printed).name == "log.example/a"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    refused(flserver("keygen", "--out", key), "is there already")
    refused(flserver("keygen", "--out", tmp_path / "x", "--name", "a b"), "--name: 'a b' cannot be a key's name")
    one, other = (lines(flserver("keygen", "--out", tmp_path / name, "--witness"))[0] for name in "ab")
    assert PublicKey.parse(one).kind == WITNESS
    assert PublicKey.parse(one).name != PublicKey.parse(other).name, "a name of its own"


def test_a_key_can_have_a_passphrase(flserver: Run, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("open sesame\n")
    words.chmod(0o600)
    lines(flserver("keygen", "--out", tmp_path / "key", "--passphrase-file", words))
    assert b"ENCRYPTED" in (tmp_path / "key").read_bytes()
    words.chmod(0o644)
    refused(flserver("keygen", "--out", tmp_path / "x", "--passphrase-file", words), "others can read it")


def test_an_event_a_round_and_an_extension_are_proven_to_a_site(flserver: Run, signed: Path, tmp_path: Path) -> None:
    first, *_, newest = (Note.parse(row["note"]) for row in TreeReader(signed).heads())
    (tmp_path / "first").write_text(str(first))
    (tmp_path / "newest").write_text(str(newest))
    check = ("witness", "check", tmp_path / "proof", "--log-key", tmp_path / "key.pub")
    code, proof, err = flserver("--db", signed, "prove", "night:1")
    assert code == 0
    (tmp_path / "proof").write_text(proof)
    size = opened(newest, LOG.public).size
    (told,) = lines(flserver(*check, "--head", tmp_path / "newest"))
    ((seq, run_id, at),) = TreeReader(signed).query(
        "SELECT seq, run_id, at FROM v1_events WHERE type = 'RoundCommitted' ORDER BY seq LIMIT 1 OFFSET 1"
    )[1]
    ((attempt, digest),) = TreeReader(signed).query(
        f"SELECT attempt, model_digest FROM v1_rounds WHERE event_seq = {seq}"
    )[1]
    assert err == f"flserver prove: event {seq} is round 1 of run {run_id}, whose model is {digest}\n"
    about = json.loads(flserver("--db", signed, "prove", seq, "--json")[1])["round"]
    assert about == {"run_id": run_id, "round": 1, "attempt": attempt, "model_digest": digest}
    assert flserver("--db", signed, "prove", "1")[2] == "", "no round"
    assert told == f"event {seq}, RoundCommitted of run {run_id} at {at}, is among the {size} of log.example/a"
    refused(flserver(*check, "--head", tmp_path / "first"), "flserver prove takes --head too", code=1)
    code, _, err = flserver(*check)
    assert (code, "the head is the file's own" in err) == (0, True)
    refused(flserver("--db", signed, "prove", "night:1", "--head", tmp_path / "first"), "is in a later one", code=1)
    for since in (tmp_path / "first", opened(first, LOG.public).size):
        code, text, _ = flserver("prove", "--since", since, "--db", signed)
        assert code == 0
        assert Extension.parse(text).old == opened(first, LOG.public).size
    (tmp_path / "forged").write_text(str(LOG.sign(opened(first, LOG.public).size, bytes(32))))
    refused(flserver("--db", signed, "prove", "--since", tmp_path / "forged"), "are not those", code=1)
    refused(flserver("--db", signed, "prove"), "takes one of")
    refused(flserver("--db", signed, "prove", "1", "--since", "1"), "takes one of")


def test_a_site_is_given_its_own_rows_in_a_file(flserver: Run, signed: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    assert lines(flserver("--db", signed, "prove", "--client", "1", "--out", out)) == []
    assert stat.S_IMODE(out.stat().st_mode) & 0o007 == 0
    check = ("witness", "check", out, "--log-key", LOG.public)
    code, told, _ = flserver(*check)
    assert code == 0
    assert "events about client 1 are among the" in told
    refused(flserver("--db", signed, "prove", "--client", "1", "--out", out), "File exists")
    first, *rest = out.read_text().splitlines()
    row = json.loads(rest[1])
    row["event"]["at"] = "2026-01-01T00:00:00.000000Z"
    out.write_text("\n".join([first, rest[0], json.dumps(row), ""]))
    refused(flserver(*check), "is not in the record", code=1)


def test_of_what_is_purged_nobody_is_given_anything_and_that_is_said(
    flserver: Run, signed: Path, tmp_path: Path
) -> None:
    lines(flserver("--db", signed, "purge", "--what", "payloads", "--client", "1", "--yes"))
    code, rows, err = flserver("--db", signed, "prove", "--client", "1")
    assert (code, len(rows.splitlines())) == (0, 1)
    assert "what was about client 1 among them is not in the file" in err


def test_a_public_key_signs_nothing_and_that_is_said(flserver: Run, signed: Path, tmp_path: Path) -> None:
    asked = ("--db", tmp_path / "x.sqlite", "check", "--server-port", "0", "--metrics-port", "0")
    code, _, err = flserver(*asked, "--sign-key", tmp_path / "key.pub")
    assert (code, f"{tmp_path}/key.pub: is a public key" in err) == (2, True)
    assert f"made beside it: {tmp_path}/key\n" in err


@pytest.fixture
def watching(tmp_path: Path) -> tuple[object, ...]:
    """A witness of what the file ``shown`` shows."""
    PrivateKey.generate("site", WITNESS).write(tmp_path / "own")
    options = {"url": tmp_path / "shown", "log-key": tmp_path / "key.pub", "key": tmp_path / "own"}
    options |= {"state": tmp_path / "state"}
    return ("witness", *(part for name, value in options.items() for part in (f"--{name}", value)), "--once")


def test_a_witness_cosigns_and_says_loudly_what_does_not_extend(
    flserver: Run, signed: Path, tmp_path: Path, watching: tuple[object, ...]
) -> None:
    own = PublicKey.parse((tmp_path / "own.pub").read_text())
    first = Note.parse(TreeReader(signed).heads()[0]["note"])
    size = opened(first, LOG.public).size
    refused(flserver(*watching), "No such file", code=2)
    (tmp_path / "shown").write_text(str(first))
    code, out, err = flserver(*watching)
    assert (code, err) == (0, f"flserver witness: log.example/a: {size} events, the first head seen; cosigned\n")
    assert cosigned_at(Note.parse(out.removesuffix("\n")), own)
    assert flserver(*watching) == (0, "", ""), "nothing new"
    code, text, _ = flserver("--db", signed, "prove", "--since", tmp_path / "shown")
    (tmp_path / "shown").write_text(text)
    code, out, err = flserver(*watching, "--out", tmp_path / "cosigned")
    assert (code, out) == (0, "")
    assert err.endswith(f"events, it extends the {size} seen before; cosigned\n")
    assert cosigned_at(Note.parse((tmp_path / "cosigned").read_text()), own)
    (tmp_path / "shown").write_text(str(LOG.sign(3, bytes(32))))
    refused(flserver(*watching), "log.example/a went back", code=1)
    (tmp_path / "shown").write_text("x")
    refused(flserver(*watching), "what should be a signed note", code=1)


def test_two_witnesses_compare_what_they_saw(
    flserver: Run, signed: Path, tmp_path: Path, watching: tuple[object, ...]
) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for path, root in ((first, bytes(32)), (second, bytes(31) + b"1")):
        path.write_text(str(LOG.sign(30, root)))
    compare = ("witness", "compare", "--log-key", tmp_path / "key.pub")
    refused(flserver(*compare, first, second), "log.example/a showed two pasts: its heads of 30 events", code=1)
    (tmp_path / "shown").write_text(first.read_text())
    assert flserver(*watching)[0] == 0
    same = "log.example/a: 1 heads are the same, the largest of 30 events"
    assert lines(flserver(*compare, first, tmp_path / "state")) == [same]
    second.write_text(str(LOG.sign(31, bytes(32))))
    refused(flserver(*compare, first, second), "no head of the same size")


def test_what_a_witness_needs_is_said(flserver: Run, signed: Path, tmp_path: Path) -> None:
    refused(flserver("witness"), "witness needs --url, --log-key, --key and --state")
    refused(flserver("witness", "check", tmp_path / "x"), "--log-key is missing")
    refused(flserver("witness", "check", tmp_path / "x", "--log-key", "a+b"), "no public key")
    refused(flserver("witness", "check", tmp_path / "x", "--log-key", tmp_path / "none"), "No such file")


def test_a_site_needs_neither_torch_nor_a_database_to_be_a_witness(flserver: Run, signed: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from flserver.cli.main import run_cli; code = run_cli(sys.argv[1:]);"
        "print(code, *(name for name in ('torch', 'numpy', 'sqlalchemy', 'numba') if name in sys.modules))"
    )
    PrivateKey.generate("site", WITNESS).write(tmp_path / "own")
    (tmp_path / "shown").write_text(TreeReader(signed).heads()[0]["note"])
    assert flserver("--db", signed, "prove", "--client", "1", "--out", tmp_path / "rows")[0] == 0
    options = ("--url", tmp_path / "shown", "--log-key", LOG.public, "--key", tmp_path / "own", "--once")
    for command in (
        ("witness", *options, "--state", tmp_path / "state", "--out", tmp_path / "cosigned"),
        ("witness", "check", tmp_path / "rows", "--log-key", LOG.public),
        ("witness", "compare", tmp_path / "shown", tmp_path / "state", "--log-key", LOG.public),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == "0", done.stderr
