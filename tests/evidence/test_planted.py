"""``verify.py`` where somebody else's files, heads and bundles lie around: what is given is what counts."""

import base64
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flserver.evidence import verify
from flserver.evidence.make import Asked, make
from tests.evidence.conftest import Verifies
from tests.evidence.record import LOG, RUN
from tests.evidence.zips import as_they_are, bundled, canonical, files_of, wrong
from tests.patience import PATIENCE

Files = dict[str, bytes]
ENDS = {"seq": 9, "at": "`now`", "over": False}
"""Of what ``walk`` finds: the last event."""


def rederived(files: Files) -> Files:
    """With what follows from the events and the head, as somebody would make it who knows how."""
    head = verify.HEAD.fullmatch(files["head"].decode())
    assert head is not None
    run_id, lines = json.loads(files["bundle.json"])["run_id"], files["events.jsonl"].splitlines(keepends=True)
    facts = verify.walk(lines, run_id, int(head[2]), base64.b64decode(head[3]))
    kept = {name: data for name, data in files.items() if not name.startswith("statements/")}
    newest = max(facts["RoundCommitted"].items())[1]
    component = json.loads(kept["bom.json"])
    about = component["metadata"]["component"]
    about["version"], about["hashes"][0]["content"] = f"round {newest['round']}", newest["model_digest"][7:]
    kept.pop("model.safetensors", None)
    return kept | {"bom.json": canonical(component)} | verify.derive(facts, run_id, f"{head[2]}:{head[3]}")


def rows_of(files: Files) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["events.jsonl"].splitlines()]


def with_rows(files: Files, rows: list[dict[str, Any]]) -> Files:
    return files | {"events.jsonl": b"".join(canonical(row) + b"\n" for row in rows)}


def given(bundle: bytes) -> str:
    _, size, root = files_of(bundle)["head"].decode().split("\n")[:3]
    return f"{size}:{root}"


def test_a_file_named_as_what_was_typed_is_not_read_for_it(
    bundle: bytes, verifies: Verifies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can put files where somebody checks cannot say under which key or head."""
    monkeypatch.chdir(tmp_path)
    mine = str(LOG.public)
    other = mine[:-4] + ("A" if mine[-4] != "A" else "B") + mine[-3:]
    elsewhere = given(bundle)[:-2] + ("A=" if given(bundle)[-2] != "A" else "B=")
    for typed, planted, option in ((other, mine, "--key"), (elsewhere, given(bundle), "--head")):
        assert verifies(bundle, option, typed, key=False)[0] == 1
        path = tmp_path / typed
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(planted)
        assert verifies(bundle, option, typed, key=False)[0] == 1
        shutil.copy(path, tmp_path / "given")
        assert verifies(bundle, option, "given", key=False)[0] == 0, "a file of another name is read"


@pytest.mark.parametrize("isolated", [True, False])
def test_no_module_beside_it_is_run(tmp_path: Path, bundle: bytes, isolated: bool) -> None:
    (tmp_path / "verify.py").write_bytes(files_of(bundle)["verify.py"])
    (tmp_path / "it.zip").write_bytes(bundle)
    for name in ("__future__", "argparse", "json", "hashlib", "re", "typing", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('what lies beside it was run')")
    command = [sys.executable, *["-I"] * isolated, "verify.py", "it.zip", "--key", str(LOG.public)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, env={})
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_nobody_signed_of_a_head_stands_nowhere(bundle: bytes, verifies: Verifies) -> None:
    """Lines below a head, and under --head SIZE:ROOT its first line, are whatever the maker of a bundle likes."""
    files = files_of(bundle)
    head, at = files["head"].decode(), given(bundle)
    origin = head.partition("\n")[0]
    for added in ("— auditor.example:proven AAAAAAAA\n", "— \x1b[2J AAAA\n", "— a\u202e AAAA\n"):
        changed = bundled(files | {"head": (head + added).encode()})
        code = verifies(changed)[0]
        assert code == (0 if added[2:].partition(" ")[0].isascii() and "\x1b" not in added else 1)
    renamed = head.replace(origin, "trusted.example/all-is-proven", 1).encode()
    code, said = verifies(bundled(files | {"head": renamed}), "--head", at, key=False)
    assert code == 0
    assert "all-is-proven" not in said
    page = files["SUMMARY.md"].decode()
    assert page.isascii()
    assert at in page
    assert origin not in page
    assert "—" not in page
    assert verifies(bundle, "--head", head, key=False)[0] == 0
    code, said = verifies(bundled(files | {"head": renamed}), "--head", head, key=False)
    assert (code, "is not this bundle's" in said) == (1, True)
    for hostile in ("a\x1b[2Jb", "a\u202eb", "é"):
        changed = bundled(files | {"head": head.replace(origin, hostile, 1).encode()})
        assert verifies(changed, "--head", at, key=False)[0] == 1


def test_a_round_without_what_it_says_does_not_hold(bundle: bytes) -> None:
    files = files_of(bundle)
    rows = rows_of(files)
    newest = [row for row in rows if row["event"]["type"] == "RoundCommitted"][-1]
    del newest["payload"], newest["salt"]
    with pytest.raises(ValueError, match="is a round, and without what it says"):
        rederived(with_rows(files, rows))
    assert "is a round, and without what it says" in str(wrong(bundled(with_rows(files, rows))))


def test_withheld_updates_are_counted(bundle: bytes, verifies: Verifies) -> None:
    files = files_of(bundle)
    code, said = verifies(bundle)
    assert (code, "purged: 0 updates" in said) == (0, True)
    assert f"\nRounds 0 to 2 of run `{RUN}`, under head {given(bundle)}.\n" in said
    assert said.splitlines()[-1].endswith(": the run is complete: 2 of 2 rounds."), "as the last event of the run says"
    assert "NOT in it" not in said
    rows = rows_of(files)
    for row in rows:
        if row["event"]["type"] == "UpdateReceived" and "payload" in row:
            del row["payload"], row["salt"]
    code, said = verifies(bundled(rederived(with_rows(files, rows))))
    assert (code, "purged: 4 updates" in said) == (0, True), "the late and the rejected are in no model"


def test_a_round_that_is_left_out_is_missed(bundle: bytes) -> None:
    facts: dict[str, Any] = {"AttemptStarted": {}, "UpdateReceived": {}, "events": 2, "payloads": 2, **ENDS}
    made: dict[str, Any] = {"materials": [], "model_digest": "sha256:00"}
    rounds = {(number, 1): {**made, "round": number} for number in (3, 4, 6)}
    with pytest.raises(ValueError, match="round 5 is left out"):
        verify.derive({**facts, "RoundCommitted": rounds}, RUN, "7:root")
    del rounds[6, 1]
    page = verify.derive({**facts, "RoundCommitted": rounds}, RUN, "7:root")["SUMMARY.md"].decode()
    assert "Rounds 3 to 4 of run" in page
    (made := {**made, "round": 3})["accuracy"] = 0.95823456789
    page = verify.derive({**facts, "RoundCommitted": {(3, 1): made}}, RUN, "7:root")["SUMMARY.md"].decode()
    assert "\nRound 3 of run" in page
    assert "`0.958235`" in page


def test_another_runs_bill_of_materials_is_not_this_ones(recorded: Path, bundle: bytes) -> None:
    files = files_of(bundle)
    for one, other in ((RUN.encode(), b"20260131T080000Z-bbbbbb"), (b'"round 2"', b'"round 9"')):
        assert one in files["bom.json"]
        changed = bundled(files | {"bom.json": files["bom.json"].replace(one, other)})
        assert "bom.json is of another" in str(wrong(changed))


def test_a_head_and_its_signatures_cost_little(bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    files, tried = files_of(bundle), list[int]()
    head = files["head"].decode()
    line = head.splitlines()[-1]
    raw = base64.b64decode(line.split(" ")[2])
    bad = [raw[:36] + number.to_bytes(32, "little") for number in range(1, 300)]
    lines = "".join(f"— {line.split(' ')[1]} {base64.b64encode(one).decode()}\n" for one in bad)
    key = verify.KEY.fullmatch(str(LOG.public))
    assert key is not None
    monkeypatch.setattr(verify, "ed25519", lambda *_: bool(tried.append(1)))
    monkeypatch.setattr(verify, "walk", lambda *_: pytest.fail("the events were read before the head was compared"))
    many = bundled(files | {"head": (head.partition("\n\n")[0] + "\n\n" + lines).encode()})
    with pytest.raises(ValueError, match="has not signed"):
        verify.check(verify.Bundle(io.BytesIO(many)), key)
    assert len(tried) == 3
    for at in ("1:" + given(bundle).partition(":")[2], given(bundle)[:-3] + "AA="):
        with pytest.raises(ValueError, match=r"--head is|not this bundle's"):
            verify.check(verify.Bundle(io.BytesIO(bundle)), None, verify.GIVEN.search(f"{at}\n"))
    long = bundled(files | {"head": (head + "— a AAAA\n" * 8000).encode()})
    assert "head is missing, or larger" in str(wrong(long))


def test_the_last_line_ends(bundle: bytes) -> None:
    files = files_of(bundle)
    for end in (b"", b"X", b"}", b" "):
        changed = bundled(files | {"events.jsonl": files["events.jsonl"][:-1] + end})
        assert "has no end" in str(wrong(changed)), end


def test_another_runs_event_is_refused_wherever_it_stands(db: Path, tmp_path: Path) -> None:
    """The events of the other run are in the same record, with proofs that are right."""
    make(db, tmp_path / "other.zip", Asked(run="other"))
    files = files_of((tmp_path / "other.zip").read_bytes())
    head = verify.HEAD.fullmatch(files["head"].decode())
    assert head is not None
    size, root = int(head[2]), base64.b64decode(head[3])
    lines = files["events.jsonl"].splitlines(keepends=True)
    of = json.loads(files["bundle.json"])["run_id"]
    assert verify.walk(lines, of, size, root)["events"] == len(lines)
    with pytest.raises(ValueError, match="another run's"):
        verify.walk(lines, RUN, size, root)


def test_two_files_of_one_name_or_in_another_order_are_refused(bundle: bytes) -> None:
    files = files_of(bundle)
    for names in (["a", "a"], ["b", "a"]):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as zipped, pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)
            for name in names:
                entry = zipfile.ZipInfo(name)
                entry.create_system, entry.external_attr = 3, 0o100644 << 16
                zipped.writestr(entry, b"")
        with pytest.raises(ValueError, match="zipped anew"):
            verify.Bundle(io.BytesIO(out.getvalue()))
    assert verify.Bundle(io.BytesIO(as_they_are(files))).found.keys() == files.keys()


def test_an_update_of_another_client_than_its_round_says_is_refused() -> None:
    made: dict[str, Any] = {"materials": [("1", 11, 1.0)], "model_digest": "sha256:00", "round": 1}
    update = {"client_id": "1", "materials": []}
    facts: dict[str, Any] = {"AttemptStarted": {}, "events": 1, "payloads": 1, **ENDS, "RoundCommitted": {(1, 1): made}}
    assert verify.derive({**facts, "UpdateReceived": {11: update}}, RUN, "7:root")
    with pytest.raises(ValueError, match="round 1 has an update of two clients"):
        verify.derive({**facts, "UpdateReceived": {11: {**update, "client_id": "2"}}}, RUN, "7:root")


@pytest.mark.parametrize("y", [verify.P + 1, verify.P])
def test_a_point_is_written_in_one_way(y: int) -> None:
    """RFC 8032 §5.1.3: y is less than p."""
    verify.point((y - verify.P).to_bytes(32, "little"))
    with pytest.raises(ValueError, match="no point"):
        verify.point(y.to_bytes(32, "little"))


def test_a_summary_names_some_clients_of_a_round_and_counts_the_rest() -> None:
    for count in (20, 21, 4000):
        materials = [(f"c{number}", number, 1 / count) for number in range(1, count + 1)]
        made: dict[str, Any] = {"materials": materials, "model_digest": "sha256:00", "round": 1}
        facts: dict[str, Any] = {"AttemptStarted": {}, "UpdateReceived": {}, "events": 1, "payloads": 1, **ENDS}
        files = verify.derive({**facts, "RoundCommitted": {(1, 1): made}}, RUN, "7:root")
        page = files["SUMMARY.md"].decode()
        assert (page.count("`c") - page.count("`checkpoints"), f"{count - 20} more" in page) == (20, count > 20)
        said = json.loads(files["statements/round-000001.json"])["predicate"]["materials"]
        assert len(said) == count
