"""Whatever is changed in a bundle is found: by anybody's hand in itself, by a careful one under the head or the key."""

import io
import json
import random
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from flserver.evidence.anchor import anchor
from flserver.evidence.make import Asked, make
from flserver.heads.keys import PrivateKey
from flserver.heads.tree import Frontier
from flserver.store.chain import Link, payload_digest
from flserver.store.tree_reader import TreeReader
from tests.evidence.conftest import Verifies
from tests.evidence.record import LOG, write_record
from tests.evidence.zips import as_they_are, bundled, canonical, files_of, flipped, wrong

Files = dict[str, bytes]
SMALL = 1000  # bytes of a file of which every one is flipped
DERIVED = ("SUMMARY.md", "checkpoints.json", "statements/round-000001.json")


def test_every_flipped_byte_of_every_other_file_is_found(bundle: bytes) -> None:
    assert wrong(bundle) is None
    files, drawn = files_of(bundle), random.Random(1)
    for name in files.keys() - {"verify.py"}:
        places = range(len(files[name])) if len(files[name]) < SMALL else drawn.sample(range(len(files[name])), 60)
        for at in places:
            assert wrong(as_they_are(files | {name: flipped(files[name], at)})) is not None, (name, at)


def test_every_flipped_byte_of_the_zip_around_the_files_is_found(bundle: bytes) -> None:
    """Names, sizes, times, checksums: what unzip would make of them."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as zipped:
        begins = {entry.header_offset + 30 + len(entry.filename): entry.file_size for entry in zipped.infolist()}
    inside = {at for begin, size in begins.items() for at in range(begin, begin + size)}
    around = [at for at in range(len(bundle)) if at not in inside]
    assert len(around) > 1000
    for at in around:
        assert wrong(flipped(bundle, at)) is not None, at


@pytest.mark.parametrize("name", [*DERIVED, "events.jsonl", "model.safetensors"])
def test_a_flipped_byte_is_found_where_the_manifest_was_made_anew(bundle: bytes, name: str) -> None:
    files, drawn = files_of(bundle), random.Random(name)
    for at in drawn.sample(range(len(files[name])), 40):
        said = wrong(bundled(files | {name: flipped(files[name], at)}))
        assert said is not None, at
        assert "was changed" not in said, "the manifest is right"


def test_a_file_too_few_too_many_renamed_or_swapped_is_found(bundle: bytes) -> None:
    files = files_of(bundle)
    for name in files.keys() - {"model.safetensors", "model.sig"}:
        rest = {other: data for other, data in files.items() if other != name}
        assert wrong(as_they_are(rest)) is not None, name
        if name not in ("bundle.json", "verify.py"):
            assert wrong(bundled(rest)) is not None, name
    one, other = "statements/round-000001.json", "statements/round-000002.json"
    swapped = files | {one: files[other], other: files[one]}
    renamed = {name.replace("round-000002", "round-000003"): data for name, data in files.items()}
    for changed in (files | {"json.py": b"x"}, files | {"statements/round-000009.json": b"{}"}, swapped, renamed):
        assert wrong(as_they_are(changed)) is not None
        assert wrong(bundled(changed)) is not None
    without = {name: data for name, data in files.items() if name != "model.safetensors"}
    assert wrong(as_they_are(without)) is not None
    assert wrong(bundled(without)) is None, "the model may be left out"


def test_a_zip_with_more_in_it_than_it_says_is_found(bundle: bytes) -> None:
    files = files_of(bundle)
    for changed in (bundle + b"x", b"x" + bundle, bundle + bundle, bundle[:-1], bundle[: len(bundle) // 2], b"", b"PK"):
        assert wrong(changed) is not None
    for name in ("SUMMARY.md", "head"):
        twice = io.BytesIO(bundle)
        with zipfile.ZipFile(twice, "a") as zipped, pytest.warns(UserWarning, match="Duplicate"):
            zipped.writestr(name, b"# All is well")
        assert wrong(twice.getvalue()) is not None
    squeezed, commented, linked = io.BytesIO(), io.BytesIO(bundle), io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    with zipfile.ZipFile(commented, "a") as zipped:
        zipped.comment = b"verified"
    with zipfile.ZipFile(linked, "w") as zipped:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16  # a symbolic link
            zipped.writestr(entry, data)
    for made in (squeezed, commented, linked):
        assert wrong(made.getvalue()) is not None


def other_event(rows: list[dict[str, object]]) -> None:
    rows[0]["event"]["at"] = "2026-01-01T00:00:00.000000Z"  # type: ignore[index]


def no_proof(rows: list[dict[str, object]]) -> None:
    del rows[-1]["proof"]


def other_payload(rows: list[dict[str, object]]) -> None:
    row = next(row for row in rows if "payload" in row)
    row["payload"] = str(row["payload"]).replace("0", "1")


def other_salt(rows: list[dict[str, object]]) -> None:
    next(row for row in rows if "payload" in row)["salt"] = "00" * 16


def loud_salt(rows: list[dict[str, object]]) -> None:
    """The same bytes, written in another way."""
    row = next(row for row in rows if set(str(row.get("salt", ""))) & set("abcdef"))
    row["salt"] = str(row["salt"]).upper()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_event, "does not follow the one before"),
        (no_proof, "is not proven to be in the head's record"),
        (other_payload, "the payload is not the one on record"),
        (other_salt, "the payload is not the one on record"),
        (loud_salt, "more than an event"),
        (lambda rows: rows[-1]["proof"].append(" "), "more than an event"),
        (lambda rows: rows[4].update(note="verified"), "more than an event"),
        (lambda rows: rows[4]["event"].update(note="verified"), "does not follow the one before"),
        (lambda rows: rows.pop(5), "does not follow the one before"),
        (lambda rows: rows.insert(5, rows[5]), "does not follow the one before"),
        (lambda rows: rows.reverse(), "does not follow the one before"),
        (lambda rows: rows.clear(), "is not proven"),
        (lambda rows: rows[-1].update(proof=[]), "is not in the head's record"),
    ],
)
def test_events_that_were_changed_are_found_and_named(
    bundle: bytes, change: Callable[[list[dict[str, object]]], object], said: str
) -> None:
    files = files_of(bundle)
    rows = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    change(rows)
    told = wrong(bundled(files | {"events.jsonl": b"".join(canonical(row) + b"\n" for row in rows)}))
    assert told is not None
    assert said in told


def test_a_bundle_of_a_rewritten_record_does_not_hold_under_the_old_head(
    db: Path, tmp_path: Path, verifies: Verifies
) -> None:
    old = anchor(TreeReader(db), None, 0)
    (tmp_path / "old").write_text(old.text)
    make(db, tmp_path / "true.zip", Asked.parse("night:1"))
    assert verifies((tmp_path / "true.zip").read_bytes(), "--head", old)[0] == 0
    # Everything anew, by who has the disk, and not the key: the same events, but for one.
    forger = PrivateKey.generate(LOG.public.name)
    rewritten(db, forger)
    make(db, tmp_path / "false.zip", Asked(run="night"))
    false = (tmp_path / "false.zip").read_bytes()
    assert verifies(false, key=False)[0] == 3, "consistent in itself"
    assert verifies(false, "--key", forger.public, key=False)[0] == 0
    for options, key in (([], True), (["--head", old], False), (["--head", tmp_path / "old"], False)):
        code, said = verifies(false, *options, key=key)
        assert code == 1, said
    assert "either it was copied wrongly or the record is another" in said


def rewritten(db: Path, forger: PrivateKey) -> None:
    """The database, as if all had been so from the beginning."""
    with closing(sqlite3.connect(db)) as connection:
        (size,) = connection.execute("SELECT COUNT(*) FROM events").fetchone()
        rows = connection.execute("SELECT seq, type, payload, salt FROM events ORDER BY seq").fetchall()
        digest, tree = "sha256:" + "0" * 64, []
        for seq, kind, payload, salt in rows:
            said = payload.replace("exact-sum-1", "exact-sum-2") if kind == "RoundCommitted" else payload
            columns = "seq, run_id, process_id, type, at"
            values = connection.execute(f"SELECT {columns} FROM events WHERE seq = ?", (seq,)).fetchone()
            link = Link(
                **dict(zip(columns.split(", "), values, strict=True)),
                payload_digest=payload_digest(salt, said),
                previous_digest=digest,
            )
            before, digest = digest, link.digest()
            tree.append(bytes.fromhex(digest[7:]))
            connection.execute(
                "UPDATE events SET payload = ?, payload_digest = ?, previous_digest = ?, digest = ? WHERE seq = ?",
                (said, link.payload_digest, before, digest, seq),
            )
        (signed_of,) = connection.execute("SELECT MAX(size) FROM heads").fetchone()
        assert signed_of < size < 256, "no node of the tree is kept"
        note = forger.sign(signed_of, Frontier().extended(tree[:signed_of])[0].root)
        connection.execute("UPDATE heads SET note = ?, key = ?", (str(note), str(forger.public)))
        connection.commit()


def test_a_head_without_the_keys_signature_does_not_hold_under_the_key(bundle: bytes, verifies: Verifies) -> None:
    files = files_of(bundle)
    text, _, below = files["head"].decode().partition("\n\n")
    signer, name, encoded = below.rstrip().split(" ")
    broken = encoded[:-4] + ("A" if encoded[-4] != "A" else "B") + encoded[-3:]
    for head in (f"{text}\n", f"{text}\n\n{signer} {name} {broken}\n", f"{text}\n\n{signer} other {encoded}\n"):
        changed = bundled(files | {"head": head.encode()})
        assert verifies(changed, key=False)[0] == 3
        code, said = verifies(changed)
        assert code == 1
        assert "the key has not signed its head" in said or "no point" in said


def test_what_is_only_stated_is_held_by_the_zips_digest_alone(bundle: bytes, verifies: Verifies) -> None:
    """As the handbook says: a licence is nobody's event."""
    files = files_of(bundle)
    licensed = bundled(files | {"bom.json": files["bom.json"].replace(b"not stated", b"anything goes")})
    assert verifies(licensed)[0] == 0
    assert licensed != bundle
    of_another = files["bom.json"].replace(b'"content":"', b'"content":"0')
    assert "bom.json is of another" in str(wrong(bundled(files | {"bom.json": of_another})))
    assert wrong(bundled(files, note="verified")) is not None


def test_two_records_give_two_bundles(tmp_path: Path, bundle: bytes, verifies: Verifies) -> None:
    """Another record of the same key's name and size: its head is another one."""
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
    (tmp_path / "b").mkdir()
    other = write_record(tmp_path / "b")
    mine = anchor(TreeReader(other), None, 0)
    code, said = verifies(bundle, "--head", mine)
    assert (code, "the record is another" in said) == (1, True)
    assert f"the head given, {mine}, is not this bundle's, " in said
