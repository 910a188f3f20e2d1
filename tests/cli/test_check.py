"""Whether a start would succeed: everything is looked at, and nothing is left."""

import os
import socket
import sqlite3
import stat
import tomllib
from pathlib import Path

import pytest

from flserver.store.lock import DatabaseLock
from flserver.store.schema import ensure_head
from tests.cli.conftest import Run, lines
from tests.network.outgoing import outgoing, port_of
from tests.old_database import old_database
from tests.recorded_run import PLAIN

ANY_PORT = ("--server-port", "0", "--metrics-port", "0")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def complaints(answer: tuple[int, str, str]) -> list[str]:
    """The lines about what cannot be done."""
    assert answer[0] == 2
    return [line.removeprefix("flserver: ") for line in answer[2].splitlines()]


def test_a_start_that_would_succeed_is_said_with_what_it_takes_on_the_disk(flserver: Run, tmp_path: Path) -> None:
    sizes = ("--num-rounds", "100", "--min-clients", "5", "--eval-data", "digits", "--run-name", "night")
    said = "\n".join(lines(flserver("--db", tmp_path / "x.sqlite", "check", *ANY_PORT, *sizes)))
    for part in (
        f"database: {tmp_path}/x.sqlite will be made",
        "run: a new one called night",
        "trainers: 127.0.0.1:any port",
        "checkpoints: about 3.6 MB for 100 rounds to come, ",
        "record: about 3.0 MB for them with 5 clients, ",
        "model: neural_net_helper:NeuralNet, 7,850 parameters, ",
        "evaluation: digits",
    ):
        assert part in said
    assert names(tmp_path) == []


def test_the_options_before_and_after_the_word_are_those_of_a_start(
    flserver: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text('num-rounds = 7\nrun-name = "file"\nmin-clients = 4\nserver-port = 0\n')
    monkeypatch.setenv("FLSERVER_METRICS_PORT", "0")
    monkeypatch.setenv("FLSERVER_RUN_NAME", "environment")
    before = ("--config", "c.toml", "--num-rounds", "3")
    for arguments in ((*before, "check"), ("check", *before), (*before[:2], "check", *before[2:])):
        said = "\n".join(lines(flserver(*arguments)))
        assert "for 3 rounds to come" in said, "a flag comes first"
        assert "a new one called environment" in said, "then the environment"
        assert "with 4 clients" in said, "then the file"
    said = "\n".join(lines(flserver("--run-name", "far", "check", "--config", "c.toml", "--run-name", "near")))
    assert "a new one called near" in said
    printed = tomllib.loads(flserver("check", "--config", "c.toml", "--print-config")[1])
    assert (printed["num-rounds"], printed["metrics-port"]) == (7, 0)


def test_each_thing_that_cannot_be_done_has_its_line(flserver: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--server-port", port, "--metrics-port", port, "--eval-data", "mnits", "--strategy", "fedagv")
        answer = flserver("--db", tmp_path / "no" / "x.sqlite", *options, "check", "--tls-key", "x.key")
    found = complaints(answer)
    reasons = ("there is no directory", "fedavg", "mnist", "--server-port", "--metrics-port", "--tls-key")
    assert len(found) == len(reasons)
    for reason in reasons:
        assert [line for line in found if reason in line], reason
    assert "are not looked at before that is mended" in answer[1]
    assert names(tmp_path) == []


def test_a_database_that_a_server_has(flserver: Run, db: Path) -> None:
    with DatabaseLock(db):
        (line,) = complaints(flserver("--db", db, "check", *ANY_PORT))
    assert line.startswith(f"another flserver has {db} open: process {os.getpid()}, since ")
    before = names(db.parent)
    lines(flserver("--db", db, "check", *ANY_PORT))
    assert names(db.parent) == before


def test_a_port_that_a_connection_has_is_not_waited_for(flserver: Run, tmp_path: Path) -> None:
    with outgoing() as connection:
        options = ("--server-port", port_of(connection), "--metrics-port", "0")
        (line,) = complaints(flserver("--db", tmp_path / "x.sqlite", "check", *options))
    assert "by a connection of another program" in line


def test_a_run_that_goes_on_is_held_against_its_files_and_nothing_is_cleaned(flserver: Run, db: Path) -> None:
    folder = db.with_name("runs.sqlite.checkpoints") / PLAIN
    (folder / "round-000001-0123456789abcdef.safetensors").write_bytes(b"half a round")
    before = names(db.parent)
    answer = flserver("--db", db, "check", "--resume", *ANY_PORT)
    (line,) = complaints(answer)
    assert "run: plain goes on, 0 of 2 rounds are committed" in answer[1]
    assert "fc1.weight has shape (2, 3) where (10, 784) is needed" in line, "the record was made without the model"
    assert names(db.parent) == before
    assert "is complete with its 2 rounds" in lines(flserver("--db", db, "check", "--resume", "--run-name", "night"))[1]
    (line,) = complaints(flserver("--db", db, "check", *ANY_PORT, "--resume", "--run-name", "nihgt"))
    assert "did you mean 'night'?" in line


def test_data_that_a_start_fetches_is_not_fetched(flserver: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    said = lines(
        flserver("--db", tmp_path / "x.sqlite", "check", "--eval-data", "mnist", "--data-dir", data, *ANY_PORT)
    )
    assert f"--eval-data mnist: nothing of it is in {data / 'MNIST/raw'}; a start fetches it" in said
    assert names(tmp_path) == []


def test_an_old_database_stays_as_it_is(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    old_database(path)
    path.chmod(0o640)
    before = path.read_bytes()
    said = lines(flserver("--db", path, "check", *ANY_PORT))
    assert any("will be brought from 0001 to " in line and "after a copy beside it" in line for line in said)
    assert (names(tmp_path), path.read_bytes()) == (["old.sqlite"], before)


def test_files_that_others_may_read_stay_so_and_are_told_of(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    checkpoints = tmp_path / "runs.sqlite.checkpoints"
    checkpoints.mkdir()
    for place, mode in ((path, 0o644), (checkpoints, 0o777)):
        place.chmod(mode)
    outcome = flserver("--db", path, "check", *ANY_PORT)
    assert outcome[0] == 0
    assert outcome[2].splitlines() == [
        f"flserver: {path} is open to more users than its group (mode 0644): chmod 640 closes it",
        f"flserver: {checkpoints} is open to more users than its group (mode 0777): chmod 750 closes it",
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_where_no_wal_can_be_a_start_would_fail(flserver: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoSharedMemory(sqlite3.Connection):
        """As on a network disk."""

        def execute(self, sql: str, *more: object) -> sqlite3.Cursor:
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode = DELETE"), *more)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **more: real(*a, factory=NoSharedMemory, **more))
    (line,) = complaints(flserver("--db", tmp_path / "x.sqlite", "check", *ANY_PORT))
    assert "cannot use SQLite's WAL (journal_mode stays delete): is it on a network disk?" in line
    assert names(tmp_path) == []


def test_where_the_heads_go_is_looked_at(flserver: Run, tmp_path: Path) -> None:
    check = ("--db", tmp_path / "x.sqlite", "check", *ANY_PORT)
    for file, said in (
        (tmp_path / "heads", f"heads: {tmp_path}/heads"),
        (
            tmp_path / "gone" / "heads",
            f"heads: {tmp_path}/gone/heads cannot be noted now: {tmp_path}/gone is",
        ),
        (tmp_path, f"heads: {tmp_path} cannot be noted now: it is no regular file"),
    ):
        assert any(line.startswith(said) for line in lines(flserver(*check, "--audit-head", file)))
    assert names(tmp_path) == []


@pytest.mark.parametrize("ref", ["newest", "20260131"])
def test_a_server_is_told_a_run_by_its_id_or_name_alone(flserver: Run, db: Path, ref: str) -> None:
    """A resumption asks again, and means the same run then."""
    (line,) = complaints(flserver("--db", db, "check", *ANY_PORT, "--initial-weights", ref))
    assert f"has no run '{ref}'" in line
