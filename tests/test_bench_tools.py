"""The benchmark runs, and says so when what it measures does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as command_line
from tests.bench.rounds import ROOT, BenchError, Shape, floor_command, run
from tests.patience import PATIENCE

QUICK = Shape(clients=2, size="0.03", rounds=2)


def bench(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


def test_the_quick_shape_runs_both_to_their_end(tmp_path: Path) -> None:
    done = bench("--quick", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["clients"], result["mb"], result["rounds"]) == (3, 0.03, 3)
    assert result["floor_exit_codes"] == result["server_exit_codes"] == [0]
    for name in ("floor_seconds", "server_seconds", "ratio", "floor_peak_rss_mb", "server_peak_rss_mb"):
        assert result[name] > 0, name
    assert not list(tmp_path.iterdir())  # what the servers wrote is gone


def test_the_parts_are_measured(tmp_path: Path) -> None:
    done = bench("--micro", "--size", "0.03", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert all(result[name] > 0 for name in ("parse_ratio", "write_ratio", "add_ratio"))
    assert result["events_per_commit"] >= 1
    assert result["writer_us_an_event"] > 0
    assert 0 < result["database_bytes_an_update"] <= 7 * 1024


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
    one_short = [sys.executable, "-m", "tests.bench.floor", "--clients", "1", "--model", "0.03", "--rounds", "2"]
    with pytest.raises(BenchError, match="the trainers failed"):
        run([*one_short, "--dir", str(tmp_path)], QUICK)


def test_a_round_too_few_is_reported(tmp_path: Path) -> None:
    short = [sys.executable, "-m", "tests.bench.floor", "--clients", "2", "--model", "0.03", "--rounds", "1"]
    with pytest.raises(BenchError, match="1 rounds instead of 2"):
        run([*short, "--dir", str(tmp_path)], QUICK)


def test_a_server_that_answers_nobody_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.rounds.RUN_SECONDS", 5.0)
    mute = """
import signal, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(f"listening for trainers on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
signal.pause()
"""
    with pytest.raises(BenchError, match="not over after 5 s"):
        run([sys.executable, "-c", mute], QUICK)


def test_a_server_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.rounds.END_SECONDS", 0.5)
    floor = f"sys.argv = {floor_command(QUICK, tmp_path)[2:]}"
    lingering = f"import signal, sys; {floor}; from tests.bench.floor import main; main(); signal.pause()"
    assert run([sys.executable, "-c", lingering], QUICK).exit_code == -9


def test_the_floor_writes_a_checkpoint_a_round(tmp_path: Path) -> None:
    run(floor_command(QUICK, tmp_path), QUICK)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["round-1", "round-2"]
    assert all(file.stat().st_size > 30_000 for file in files)  # bytes: a model of 0.03 MB


def test_a_server_that_ends_badly_fails_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: dict[str, object] = {"floor_exit_codes": [0], "server_exit_codes": [3]}
    monkeypatch.setattr(command_line, "compare", lambda *_: ended)
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--dir", str(tmp_path)])
    assert command_line.main() == 1
    ended["server_exit_codes"] = [0]
    assert command_line.main() == 0
