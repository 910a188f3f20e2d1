"""The benchmark runs, and says so when what it measures does not."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests import warm
from tests.bench import __main__ as command_line
from tests.bench import driver, fleet, rows
from tests.bench.databases import Databases, databases
from tests.bench.driver import (
    ROOT,
    BenchError,
    Refused,
    Run,
    Shape,
    all_accepted,
    environment,
    floor_command,
    run,
    run_python,
    run_server,
)
from tests.bench.endurance import endure
from tests.bench.fsync import syncs_a_round
from tests.bench.memory import idle_memory
from tests.bench.report import Figure
from tests.bench.rows import ON_POSTGRES, ROWS, Row
from tests.bench.rows import QUICK as QUICK_ROW
from tests.nobody import public as public
from tests.patience import PATIENCE
from tests.postgres_server import PostgresDatabase

QUICK = Shape(clients=2, size="0.03", rounds=2)
RATIO = "a round, server / durable floor"


@pytest.fixture(autouse=True)
def _forked_trainers(forker: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of runs that begin in a test's own process: torch is there already."""
    monkeypatch.setattr(driver, "run_python", lambda program, _: warm.run(program, cwd=ROOT, env=environment()))


def bench(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


def test_the_quick_shape_runs_both_to_their_end_and_is_shown_beside_an_earlier_one(tmp_path: Path) -> None:
    then, now, build = tmp_path / "then", tmp_path / "now", tmp_path / "build"
    row = {RATIO: {"value": 1000.0, "unit": "×"}}
    then.write_text(json.dumps({"machine": {"cores": 4096}, "rows": {QUICK_ROW: row}}))
    done = bench("--quick", "--crowd", "--processes", "2", "--dir", build, "--json", now, "--compare", then)
    assert done.returncode == 0, done.stderr
    assert "then it was another machine" in done.stdout
    assert "cores 4096 → " in done.stdout
    result = json.loads(now.read_text())
    assert result["machine"]["cores"] > 0
    figures = result["rows"][QUICK_ROW]
    assert all(figure["value"] > 0 for figure in figures.values())
    assert not list(build.iterdir())  # what the servers wrote is gone


def test_a_figure_is_reached_or_falls_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = [
        Figure("ratio", 1.5, "×", most=1.5),
        Figure("served", 4900, least=8000),
        Figure("counted", None, "no counter", most=5),
        Figure("seconds", 2.0, "s"),
    ]
    assert [one.verdict for one in figures] == ["ok", "SHORT", "not measured", ""]
    monkeypatch.setitem(ROWS, QUICK_ROW, Row(lambda given: figures))
    then = tmp_path / "then"
    then.write_text(json.dumps({"machine": {}, "rows": {QUICK_ROW: {"ratio": {"value": 3.0, "unit": "×"}}}}))
    arguments = ["bench", "--quick", "--dir", str(tmp_path), "--compare", str(then)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert command_line.main() == 0
    lines = {line[12:].split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line[12:].strip()}
    assert lines["ratio"][1:] == ["ratio", "1.5", "×", "≤", "1.5", "3", "×", "-50", "%", "ok"]
    assert lines["served"] == ["served", "4900", "≥", "8000", "–", "SHORT"]
    assert lines["counted"][:3] == ["counted", "no", "counter"]
    assert lines["counted"][-2:] == ["not", "measured"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--strict"])
    assert command_line.main() == 1


def test_a_row_that_cannot_be_measured_fails_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(given: object) -> list[Figure]:
        raise BenchError("no server\nits log")

    monkeypatch.setitem(ROWS, QUICK_ROW, Row(measure))
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--dir", str(tmp_path)])
    assert command_line.main() == 1
    assert "no server" in capsys.readouterr().out


def test_the_table_names_every_work_and_what_is_to_be_reached() -> None:
    named = {name: row.measure.args for name, row in ROWS.items() if isinstance(row.measure, partial)}
    ratios = {"8x45": 1.5, "32x4.5": 1.8, "8x4.5": 1.7, "50x0.03": 3, "500x0.03": 3, "2000x0.03": 2, "8x400": 1.5}
    for name, most in ratios.items():
        clients, size = name.split("x")
        assert named[name] == (int(clients), size, most)
    others = {"memory", "fsync", "8000", "rounds", "hostile", "6x800", "nodes", "fleet", "32x10", QUICK_ROW}
    assert set(ROWS) - set(ratios) == others


def test_more_nodes_are_held_against_one_where_there_are_cores_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = list[Shape]()

    def run_server(shape: Shape, directory: Path, *options: str) -> Run:
        shapes.append(shape)
        return Run([0.0, 12.0 / int(options[1]) if options else 9.0], 10**6)

    monkeypatch.setattr(rows, "run_server", run_server)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    figures = {one.what: one for one in ROWS["nodes"].measure(rows.Given(tmp_path, turns=1))}
    four = figures["128 × 4.5 MB: a round, --ingest 1 / 4"]
    assert (four.value, four.verdict) == (4.0, "ok")
    assert figures["128 × 4.5 MB: a round, no node"].value == 9000
    assert {shape.processes for shape in shapes} == {4}
    assert shapes[0].of_processes() == [8, 8, 8, 8]
    assert Shape(10, "45", 1, processes=4).of_processes() == [3, 3, 2, 2]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    assert {one.verdict for one in ROWS["nodes"].measure(rows.Given(tmp_path))} == {"not measured"}


def test_each_of_these_rounds_can_have_its_record_on_postgresql_and_two_have_a_figure_for_that() -> None:
    for name, row in ON_POSTGRES.items():
        assert isinstance(row.measure, partial)
        clients, size = name.removeprefix("pg ").split("x")
        assert row.measure.args == (int(clients), size, 1.5 if row.usual else None)
    assert [name for name, row in ON_POSTGRES.items() if row.usual] == ["pg 8x45", "pg 50x0.03"]
    assert "pg 500x0.03" in ON_POSTGRES


def test_a_round_on_postgresql_is_told_in_rounds_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_server(shape: Shape, directory: Path, *, db: str | None = None) -> Run:
        return Run([0.0, 1.0, 1.26 if db == "postgresql:///one" else 1.2, 2.0], 10**6)

    monkeypatch.setattr(rows, "run_server", run_server)
    one = Databases("15, of a test", lambda: contextlib.nullcontext("postgresql:///one"))
    ratio, *others = ON_POSTGRES["pg 50x0.03"].measure(rows.Given(tmp_path, databases=one))
    assert (ratio.value, ratio.verdict) == (pytest.approx(1.3), "ok")
    assert [one.value for one in others[2:4]] == [pytest.approx(200), pytest.approx(260)]


@pytest.mark.parametrize("what", [["--row", "memory"], ["--micro"], ["--large"], ["--fleet"]])
def test_what_is_no_round_of_trainers_does_not_go_with_a_database(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--db", "postgres", *what])
    with pytest.raises(SystemExit, match="2"):
        command_line.main()
    assert "--db goes with the rows of so many trainers" in capsys.readouterr().err


@pytest.mark.postgres
def test_the_quick_shape_runs_with_its_record_on_a_postgresql_of_its_own(public: Path) -> None:
    now, build = public / "now", public / "build"
    done = bench("--quick", "--db", "postgres", "--crowd", "--dir", build, "--json", now)
    assert done.returncode == 0, done.stderr
    result = json.loads(now.read_text())
    assert "on the same cores" in result["machine"]["postgresql"]
    assert result["machine"]["postgresql"] in done.stdout
    assert all(figure["value"] > 0 for figure in result["rows"][f"pg {QUICK_ROW}"].values())
    assert not list(build.iterdir())


@pytest.mark.postgres
def test_somebodys_database_keeps_the_runs_and_a_round_that_is_not_there_is_reported(
    postgres: PostgresDatabase, tmp_path: Path
) -> None:
    with databases(postgres.url(), tmp_path) as somebodys, somebodys.fresh() as db:
        assert somebodys.said.endswith(", where --db says")
        assert db == postgres.url()
        with pytest.raises(BenchError, match="not every update was accepted"):
            all_accepted(tmp_path, QUICK, db)
    wrong = {"runs.sqlite": "it is postgres, or an address", "postgresql:///none?host=/none": "No such file"}
    for db, why in wrong.items():
        with pytest.raises(BenchError, match=why), databases(db, tmp_path):
            pass


def test_few_rounds_are_held_against_each_other_and_resumed(tmp_path: Path) -> None:
    figures = {one.what: one.value for one in endure(30, tmp_path)}
    assert figures["rounds"] == 30
    assert all(value is not None and value > 0 for value in figures.values())


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_what_a_round_makes_durable_is_counted(tmp_path: Path) -> None:
    """Each round takes its checkpoint, that one's folder, and a transaction at least."""
    calls, _ = syncs_a_round(2, "0.03", tmp_path, rounds=3)
    assert calls >= 3


def test_an_idle_server_is_smaller_than_one_with_work_and_hostile_updates_count(tmp_path: Path) -> None:
    idle = idle_memory("4.5", tmp_path)
    assert 0 < idle < run_server(Shape(2, "4.5", 2), tmp_path, "--max-update-norm", "off", hostile=1).peak


def test_the_parts_are_measured(tmp_path: Path) -> None:
    done = bench("--micro", "--size", "0.03", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert all(result[name] > 0 for name in ("parse_ratio", "write_ratio", "add_ratio"))
    assert result["events_per_commit"] >= 1
    assert result["writer_us_an_event"] > 0
    assert 0 < result["database_bytes_an_update"] <= 7 * 1024
    upload = result["upload"]
    assert upload["session_us"] > upload["parts"]["deciding"] > 0
    assert upload["all_us"] > upload["writer_us"] + upload["session_us"] > 0


def test_large_bodies_go_through_every_part(tmp_path: Path) -> None:
    """Here with small ones: what over 4 GiB takes is ``ops/bench --large``'s to show."""
    done = bench("--large", "--gb", "0.02", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    results = {result["part"]: result for result in map(json.loads, done.stdout.splitlines())}
    assert list(results) == ["framing", "machine", "template", "checkpoint", "round"]
    assert all(result["peak_in_models"] > 0 for result in results.values())
    assert results["round"]["start_peak_in_models"] > 0
    assert results["round"]["resume_peak_in_models"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["template", "checkpoint"])
def test_a_model_is_in_memory_once_more_while_it_is_made_ready_to_send_or_read_from_its_file(
    tmp_path: Path, part: str
) -> None:
    command = [sys.executable, "-m", "tests.bench.large", "--part", part, "--gb", "0.25", "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_of_the_model_in_models"] < 1.3


def test_a_server_that_does_not_come_up_is_reported_with_its_log() -> None:
    with pytest.raises(BenchError, match="no room at the inn"):
        run([sys.executable, "-c", "raise SystemExit('no room at the inn')"], QUICK)


def test_trainers_that_are_let_down_are_reported(tmp_path: Path) -> None:
    """The floor lets one in; it takes the other's registration for an answer, and ends."""
    one_short = [sys.executable, "-m", "tests.bench.floor", "--clients", "1", "--model", "0.03", "--rounds", "2"]
    with pytest.raises(Refused, match="refused after 1 had registered") as refused:
        run([*one_short, "--dir", str(tmp_path)], QUICK)
    assert refused.value.registered == 1


def test_a_round_too_few_is_reported(tmp_path: Path) -> None:
    short = [sys.executable, "-m", "tests.bench.floor", "--clients", "2", "--model", "0.03", "--rounds", "1"]
    with pytest.raises(BenchError, match="1 rounds instead of 2"):
        run([*short, "--dir", str(tmp_path)], QUICK)


def test_a_server_that_answers_nobody_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.driver.RUN_SECONDS", 5.0)
    monkeypatch.setattr(driver, "run_python", run_python)  # one that is given up so soon
    mute = """
import signal, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(f"listening for trainers on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
signal.pause()
"""
    with pytest.raises(BenchError, match="not over after 5 s"):
        run([sys.executable, "-c", mute], QUICK)


def test_a_server_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.driver.END_SECONDS", 0.5)
    floor = f"sys.argv = {floor_command(QUICK, tmp_path)[2:]}"
    lingering = f"import signal, sys; {floor}; from tests.bench.floor import main; main(); signal.pause()"
    with pytest.raises(BenchError, match="ended with -9"):
        run([sys.executable, "-c", lingering], QUICK)


def test_the_floor_writes_a_checkpoint_a_round(tmp_path: Path) -> None:
    run(floor_command(QUICK, tmp_path), QUICK)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["round-1", "round-2"]
    assert all(file.stat().st_size > 30_000 for file in files)  # bytes: a model of 0.03 MB


def test_a_server_that_ends_badly_is_reported(tmp_path: Path) -> None:
    floor = f"sys.argv = {floor_command(QUICK, tmp_path)[2:]}"
    failing = f"import sys; {floor}; from tests.bench.floor import main; main(); sys.exit(3)"
    with pytest.raises(BenchError, match="ended with 3"):
        run([sys.executable, "-c", failing], QUICK)


def test_a_simulated_fleet_is_measured_against_the_floor_and_with_its_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulated(shape: Shape, *options: str) -> dict[str, object]:
        seconds = 0.1 if "--server-port" in options else 0.5 if "--lie" in options else 0.2
        return {"rounds": [{"seconds": seconds, "updates": shape.clients}] * shape.rounds}

    monkeypatch.setattr(fleet, "_simulate", simulated)
    monkeypatch.setattr(fleet, "Child", Floorlike)
    monkeypatch.setattr(fleet, "checkpoint_bytes", lambda _: 1)
    ratio, floor, server, rate, scripted, rate_scripted = fleet.against_the_floor(40, tmp_path, 3, 1)
    assert (ratio.value, ratio.unit) == (2.0, "×")
    assert (floor.value, server.value, scripted.value) == (100.0, 200.0, 500.0)
    assert (rate.value, rate_scripted.value) == (200.0, 80.0)


class Floorlike:
    """A floor that listens nowhere."""

    def __init__(self, command: list[str]) -> None:
        assert command[command.index("--clients") + 1] == "40"

    def port(self) -> int:
        return 1

    def end(self) -> None: ...

    def close(self) -> None: ...
