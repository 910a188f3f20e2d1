"""Runs whose models lie in an object store: a real server, and a real S3-speaking store on loopback."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flserver import buckets
from flserver.cli.main import run_cli
from flserver.settings.folders import ObjectPath
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess
from tests.s3_server import BUCKET, SECRET, S3Server

pytestmark = pytest.mark.s3
Join = Callable[..., list[Peer]]
CHECKPOINTS = "SELECT checkpoint FROM v1_rounds WHERE checkpoint_deleted_at IS NULL AND checkpoint > '' ORDER BY round"
PRUNED = "SELECT round FROM v1_rounds WHERE round = 1 AND checkpoint_deleted_at IS NOT NULL"


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> ObjectPath:
    return ObjectPath(BUCKET, f"runs/{request.node.name}")


@pytest.fixture
def up(s3: S3Server) -> Iterator[S3Server]:
    """The store, which every test leaves up."""
    yield s3
    s3.tell("opens")


def objects(prefix: ObjectPath, server: ServerProcess) -> list[str]:
    """The checkpoints in the bucket, as the record calls them."""
    ((run_id,),) = server.sql("SELECT run_id FROM v1_runs WHERE parent_run_id IS NULL")
    return [f"{run_id}/{name}" for name in buckets.listed(prefix / run_id)[0]]


def changed(place: ObjectPath) -> None:
    """Turn one bit of an object over."""
    with buckets.ObjectReader(place) as file:
        data = bytearray(file.read())
    data[-1] ^= 1
    buckets.put(place, [data], hashlib.sha256(data).digest())


def test_a_run_goes_on_from_the_bucket_and_every_command_reads_it_there(
    tmp_path: Path, up: S3Server, prefix: ObjectPath, start: Start, join: Join, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--checkpoint-dir", f"{prefix}/", "--run-name", "night", "--keep-checkpoints", "2", "--keep-updates")
    server = start("--num-rounds", "5", *where, "--log-level", "debug", *FAST, env=up.env)
    (a,) = join(server, "a")
    for _ in range(3):
        a.answer(0.1)
    a.model()
    server.wait_for_sql(PRUNED)
    with Path(f"/proc/{server.process.pid}/cmdline").open() as shown:
        assert SECRET not in shown.read()
    server.kill()
    kept = [path for (path,) in server.sql(CHECKPOINTS)]
    assert len(kept) == 2
    assert set(kept) <= set(objects(prefix, server)), "the kill may have come between the record and the deletion"
    assert not list(tmp_path.glob("*.checkpoints")), "nothing of it is on the disk"
    buckets.put(prefix / kept[-1].replace("round-000003", "round-000004"), [b"x"], hashlib.sha256(b"x").digest())
    log = server.log

    server = start("--resume", env=up.env)
    (a,) = join(server, "a")
    a.answer(0.1)
    assert len(objects(prefix, server)) <= 3, "what a crash left of round 4 is gone"
    a.answer(0.1)
    a.finished()
    assert server.exit_code() == 0
    log += server.log
    assert objects(prefix, server) == [path for (path,) in server.sql(CHECKPOINTS)]

    ran = ["--db", str(server.db)]
    assert run_cli([*ran, "verify"]) == 0
    out = tmp_path / "out.safetensors"
    assert run_cli([*ran, "export-model", "night", "--round", "last", "--out", str(out)]) == 0
    (digest,) = server.sql("SELECT model_digest FROM v1_rounds ORDER BY round DESC LIMIT 1")[0]
    assert hashlib.sha256(out.read_bytes()).hexdigest() == digest.removeprefix("sha256:")
    assert run_cli([*ran, "replay", "night", "--round", "5"]) == 0
    assert run_cli([*ran, "evidence", "night:5", "--with-model", "--out", str(tmp_path / "e.zip")]) == 0
    assert run_cli([*ran, "report", "night", "--out", str(tmp_path / "r.html")]) == 0
    assert run_cli([*ran, "backup", str(tmp_path / "copy")]) == 0
    again = tmp_path / "again.sqlite"
    assert run_cli(["--db", str(again), "restore", str(tmp_path / "copy")]) == 0
    assert f"had its checkpoints in {prefix}" not in capsys.readouterr().err, "it is complete"
    assert run_cli(["--db", str(again), "restore", str(tmp_path / "copy"), "--checkpoint-dir", str(prefix)]) == 2
    assert "restored to a disk" in capsys.readouterr().err
    assert len(list((tmp_path / "again.sqlite.checkpoints").glob("*/round-*"))) == 2
    assert run_cli([*ran, "purge", "--run", "night", "--what", "updates", "--yes"]) == 0
    run_id = objects(prefix, server)[0].partition("/")[0]
    assert buckets.listed(prefix / run_id / "updates") == ([], [])
    assert run_cli([*ran, "verify"]) == 0

    child = start("--resume-from", "4", "--run-name", "night", "--num-rounds", "1", env=up.env)
    (a,) = join(child, "a")
    began = a.answer()
    a.finished()
    assert child.exit_code() == 0
    log += child.log
    other = start("--initial-weights", "night", "--num-rounds", "1", "--min-updates", "1", *FAST, env=up.env)
    (b,) = join(other, "b")
    assert b.answer().fc1.weight.equal(began.fc1.weight), "the child's round, which has the name now"
    b.finished()
    assert other.exit_code() == 0

    place = prefix / objects(prefix, server)[-1]
    changed(place)
    capsys.readouterr()
    assert run_cli([*ran, "verify"]) == 1
    assert re.search(rf"round 5: checkpoint {place} does not match its digest", capsys.readouterr().err)
    refused = start("--resume", "--run-name", run_id, "--num-rounds", "9", env=up.env)
    assert refused.exit_code() == 1
    assert f"{place} does not match its digest" in refused.lines[-1]
    buckets.remove(place)
    assert run_cli([*ran, "verify"]) == 2, "it cannot be told"
    assert f"{place}: there is no such object" in capsys.readouterr().err
    for written in (log, server.db.read_bytes().decode("latin-1")):
        assert SECRET not in written
    assert load_file(out)["fc1.weight"].dtype == torch.float32


def test_where_the_store_cannot_be_used_nothing_begins(
    tmp_path: Path, up: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(address: str, *arguments: str) -> str:
        buckets.close()
        options = ["--checkpoint-dir", address, "--server-port", "0", "--metrics-port", "0", "--min-clients", "2"]
        assert run_cli([*options, *arguments, "check"]) == 2
        return capsys.readouterr().err

    assert "--checkpoint-dir s3://elsewhere/x: there is no bucket elsewhere" in refused("s3://elsewhere/x")
    assert "--spool-dir: cannot make" in refused("s3://models/x", "--spool-dir", str(Path(__file__) / "x"))
    secret = refused("s3://KEY:hush@models/x")
    assert "hush" not in secret
    assert "AWS_ACCESS_KEY_ID" in secret
    assert run_cli(["verify", "--checkpoint-dir", "s3://KEY:hush@models/x"]) == 2
    assert "hush" not in capsys.readouterr().err
    up.tell("locks")
    assert "the object store refuses: InvalidAccessKeyId" in refused("s3://models/x")
    up.tell("opens")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "Unable to locate credentials" in refused("s3://models/x")


def test_a_store_that_comes_back_in_time_holds_a_round_up_and_one_that_does_not_ends_the_run(
    tmp_path: Path, up: S3Server, prefix: ObjectPath, start: Start, join: Join
) -> None:
    spool = tmp_path / "spool"
    where = ("--checkpoint-dir", str(prefix), "--spool-dir", str(spool), "--run-name", "night")
    server = start("--num-rounds", "3", *where, *FAST, env=up.env)
    (a,) = join(server, "a")
    a.answer(0.1)
    model = a.model()
    up.tell("down")
    a.upload(model)
    server.wait_for_line("the checkpoint of round 2: the object store cannot be reached: .*trying again for up to 60 s")
    assert server.sql("SELECT max(round) FROM v1_rounds WHERE status = 'committed'") == [(1,)]
    up.tell("up")
    model = a.model()
    server.wait_for_line("the checkpoint of round 2: the object store answers again")
    up.tell("down")
    server.kill()

    unreachable = start("--resume", "--run-name", "night", env=up.env)
    assert unreachable.exit_code() == 2
    assert "the object store cannot be reached" in unreachable.lines[-1]
    up.tell("up")
    server = start("--resume", "--run-name", "night", "--checkpoint-patience", "0", env=up.env)
    (a,) = join(server, "a")
    model = a.model()
    up.tell("down")
    a.upload(model)
    assert server.exit_code() == 1
    assert "the checkpoint of round 3 cannot be written: s3://" in server.log
    assert "to go on" in server.lines[-1]
    up.tell("up")
    server = start("--resume", "--run-name", "night", env=up.env)
    (a,) = join(server, "a")
    a.answer()
    a.finished()
    assert server.exit_code() == 0
    assert run_cli(["--db", str(server.db), "verify"]) == 0
    assert len(objects(prefix, server)) == 4
