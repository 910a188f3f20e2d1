"""A simulated fleet against real servers: the record says what the script says, and the same seed makes one model."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.certificates import Authority
from tests.e2e.conftest import Start
from tests.e2e.harness import TESTS, ServerProcess, sql
from tests.e2e.tls_peers import served
from tests.patience import PATIENCE, eventually
from tests.warm import Started

pytestmark = pytest.mark.fleet

FLEET = ("--drop-out", "0.25", "--lag", "0.1", "--lag-seconds", "0.3", "--lie", "0.3", "--seed", "11")
TRAINERS, ROUNDS = 40, 4

Simulate = Callable[..., Started]


@pytest.fixture
def simulate(tmp_path: Path) -> Simulate:
    """Starts ``flserver simulate``."""

    def begin(*arguments: object, stderr: int | None = None) -> Started:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLSERVER_", "FLCLIENT_"))}
        environment |= {"PYTHONPATH": str(TESTS.parent), "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}
        command = ["-m", "flserver", "simulate", *map(str, arguments)]
        return warm.start(
            command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        )

    return begin


def told(process: Started, code: int = 0) -> dict[str, Any]:
    said, _ = process.communicate(PATIENCE)
    assert process.returncode == code, said
    return dict(json.loads(said))


def serve(start: Start, joining: int, *more: str) -> ServerProcess:
    return start("--num-rounds", str(ROUNDS), "--min-clients", str(joining), "--time-to-wait", "0", *more)


def test_the_record_of_a_fleet_that_drops_out_lags_and_lies_says_what_its_script_says_and_so_does_its_model_again(
    start: Start, simulate: Simulate, tmp_path: Path
) -> None:
    script, db = tmp_path / "fleet.jsonl", tmp_path / "kept.sqlite"
    own = ("--trainers", TRAINERS, "--rounds", ROUNDS, *FLEET, "--script", script, "--processes", 2, "--json")
    first = told(simulate(*own, "--db", db))
    assert first["differs"] == []
    what = {row["what"]: row["recorded"] for row in first["what"]}
    assert {row["what"]: row["scripted"] for row in first["what"]} == what
    assert set(what) == {
        *("accepted", "rejected non_finite", "rejected norm", "rejected shape"),
        *("duplicate", "dropped", "came back", "refused"),
    }
    # What the record has is what the standard library reads in it.
    assert dict(sql(db, "SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1")) == {
        "accepted": what["accepted"],
        "duplicate": what["duplicate"],
        "rejected": what["rejected non_finite"] + what["rejected norm"] + what["rejected shape"],
    }
    assert sql(db, "SELECT COUNT(*) FROM v1_client_rounds WHERE participation = 'dropped'") == [(what["dropped"],)]
    assert len(first["rounds"]) == ROUNDS

    # The same script, read, in parts that two simulations play at once, against a server that is there, in processes.
    joining = sum(json.loads(line).get("lie") != "samples" for line in script.read_text().splitlines())
    server = serve(start, joining, "--seed", "11", "--ingest", "2")
    there = ("--server-port", server.port, "--db", server.db, "--script", script, "--json")
    parts = [simulate(*there, "--processes", 1, "--part", part) for part in ("1/2", "2/2")]
    again = [told(part) for part in parts]
    assert [part["differs"] for part in again] == [[], []]
    assert server.exit_code() == 0
    digest = "SELECT final_digest FROM v1_runs"
    assert sql(server.db, digest) == sql(db, digest) == [(first["final_digest"],)]
    for decision in ("accepted", "duplicate"):
        parted = [{row["what"]: row["recorded"] for row in part["what"]}.get(decision, 0) for part in again]
        assert sum(parted) == what[decision]


def test_another_seed_makes_another_model(simulate: Simulate, tmp_path: Path) -> None:
    digests = set()
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with ServerProcess(folder, "--num-rounds", "1", "--min-clients", "6", "--time-to-wait", "0") as server:
            more = ("--server-port", server.port, "--rounds", 1, "--processes", 1, "--json", "--db", server.db)
            digests.add(told(simulate("--trainers", 6, "--seed", seed, *more))["final_digest"])
            assert server.exit_code() == 0
    assert len(digests - {None}) == 2


def test_where_the_server_decides_otherwise_that_is_said_with_the_trainers_names(
    start: Start, simulate: Simulate
) -> None:
    server = serve(start, 4, "--max-update-norm", "0.000001")
    done = told(simulate("--trainers", 4, "--server-port", server.port, "--db", server.db, "--json"), code=1)
    everybody = "not as scripted: 4 trainers (1, 2, 3, 4)"
    tries = len(done["rounds"])  # of one round, which none of the updates makes
    assert done["differs"][0] == f"accepted: the record has 0 of {4 * tries} scripted; {everybody}"
    assert done["differs"][1] == f"rejected norm: the record has {4 * tries} of 0 scripted; {everybody}"


def test_a_fleet_over_tls_shows_certificates_of_its_own_and_does_what_its_script_says(
    start: Start, simulate: Simulate, tmp_path: Path
) -> None:
    authority, script = Authority(tmp_path / "ca"), tmp_path / "fleet.jsonl"
    fleet = ("--trainers", 8, "--rounds", ROUNDS, "--drop-out", 0.25, "--lie", 0.75, "--seed", 11, "--script", script)
    told(simulate(*fleet, "--no-play", "--json"))
    lines = [json.loads(line) for line in script.read_text().splitlines()]
    own = {line["id"]: authority.client(line["id"]) for line in lines}
    for client_id, pair in own.items():
        pair.in_one_file().rename(tmp_path / f"of-{client_id}.pem")
    joining = sum(line.get("lie") != "samples" for line in lines)
    server = serve(start, joining, *served(authority, mutual=True))
    play = ("--server-port", server.port, "--script", script, "--processes", 1, "--tls-ca", authority.path)
    done = told(simulate(*play, "--tls-cert", tmp_path / "of-{id}.pem", "--db", server.db, "--json"))
    assert done["differs"] == []
    assert {row["what"] for row in done["what"]} >= {"accepted", "dropped", "duplicate", "refused"}
    assert server.exit_code() == 0
    transports = (
        "SELECT transport, certificate_fingerprint IS NOT NULL, COUNT(*) > 20 FROM v1_connections GROUP BY 1, 2"
    )
    assert server.sql(transports) == [("tls", 1, 1)]
    assert server.sql("SELECT DISTINCT identity FROM v1_clients") == [("authenticated",)]


def test_a_fleet_does_not_play_against_a_server_that_it_cannot_trust(
    start: Start, simulate: Simulate, tmp_path: Path
) -> None:
    server = serve(start, 2, *served(Authority(tmp_path / "ca"), mutual=False))
    other = Authority(tmp_path / "other")
    play = ("--trainers", 2, "--server-port", server.port, "--processes", 1, "--json")
    done = told(simulate(*play, "--tls-ca", other.path), code=1)
    assert "2 × no TLS comes about: certificate verify failed" in done["differs"]


def test_trainers_that_train_report_what_they_measured_and_learn(start: Start, simulate: Simulate) -> None:
    server = serve(start, 5, "--eval-data", "digits")
    training = ("--train", "--data", "digits", "--trainers", 5, "--processes", 1)
    done = told(simulate(*training, "--server-port", server.port, "--db", server.db, "--json"))
    assert done["differs"] == []
    assert server.exit_code() == 0
    ((before,), *_, (after,)) = server.sql("SELECT accuracy FROM v1_rounds ORDER BY round")
    assert before < 0.3 < 0.5 < after
    assert done["accuracy"] == after
    assert server.sql("SELECT SUM(data_size) FROM v1_rounds WHERE round = 1") == [(1438,)]
    assert server.sql("SELECT COUNT(*) FROM v1_client_metrics WHERE name = 'loss'") == [(2 * 5 * ROUNDS,)]


def test_killed_it_leaves_no_server_and_has_said_where_its_record_is(simulate: Simulate) -> None:
    process = simulate("--trainers", 4, "--rounds", 100_000, "--processes", 1, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.readline()
        assert any(line.startswith("round 1:") for line in process.stdout)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    try:
        eventually(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
    folder = Path(said.removeprefix("the record is in ").partition(",")[0])
    assert sql(folder / "runs.sqlite", "SELECT status FROM v1_runs") == [("interrupted",)]
    shutil.rmtree(folder)


def test_ctrl_c_ends_its_server_and_all_its_processes(simulate: Simulate) -> None:
    fleet = ("--trainers", 8, "--rounds", 100_000, "--processes", 2)
    process = simulate(*fleet, "--", "--keep-checkpoints", 1, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout:
        said = next((line for line in process.stdout if line.startswith("round 2:")), None)
        assert said is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 3
    eventually(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
