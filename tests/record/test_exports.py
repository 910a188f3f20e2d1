"""A run in the tools that others use: read back with their own readers."""

import json
import math
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flserver import events as e
from flserver import record
from flserver.cli.main import run_cli
from flserver.errors import UsageError
from flserver.record.series import points
from flserver.record.to_mlflow import to_mlflow
from flserver.record.to_tensorboard import to_tensorboard
from flserver.store.schema import ensure_head
from tests import facts
from tests.patience import PATIENCE
from tests.recorded_run import RUN, SCREEN_CLEARER, write_database
from tests.store import story

ROOT = Path(__file__).parents[2]

SETTINGS = {
    "num_rounds": 2,
    "host": "192.0.2.7",
    "metrics_host": "192.0.2.8",
    "sign_key": "/home/ada/keys/sign.key",
    "clients": None,
    "roster": "/home/ada/roster.csv",  # which this version does not know
}
SHOWN = {"num_rounds": "2", "sign_key": "sign.key", "clients": ""}
MEASURED = {"loss": 0.25, "accuracy": 0.5, "f1 <macro>": 0.75}


def recorded_round(number: int, **measured: float) -> list[e.Event]:
    metrics = tuple(
        facts.round_metric(round=number, name=name, value=value, source="evaluate") for name, value in measured.items()
    )
    return [facts.attempt(number), facts.committed(number, metrics=metrics)]


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run with two committed rounds that goes on; the second one's loss is NaN."""
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    begins = facts.run_started(config=SETTINGS)
    events = [
        begins,
        facts.server_started(),
        *recorded_round(0, **MEASURED),
        *recorded_round(1, loss=math.nan, accuracy=0.1),
    ]
    story.write(db, events)
    return db


def test_each_number_has_the_time_of_its_round(begun: Path) -> None:
    run = record.open(begun).run()
    found = {(point.round, point.name): point for point in points(run)}
    assert (found[0, "loss"].value, found[0, "evaluate/f1 <macro>"].value) == (0.25, 0.75)
    assert math.isnan(found[1, "loss"].value)
    assert (0, "evaluate/loss") not in found, "once"
    ends = {row["round"]: row["ended_at"] for row in run.rounds()}
    assert {(p.round, p.at) for p in found.values()} == {(r, timestamp(at)) for r, at in ends.items()}, "real times"
    seconds = dict(zip(ends, run.rounds().column("seconds"), strict=True))
    assert {r: found[r, "round/seconds"].value for r in ends} == seconds


def test_a_number_of_a_round_that_is_not_committed_has_no_time_and_no_point(begun: Path) -> None:
    ahead = facts.round_metric(round=3, name="loss", value=0.5, source="clients")
    story.write(begun, [facts.attempt(2), facts.committed(2, metrics=(ahead,)), facts.attempt(3)])
    run = record.open(begun).run()
    assert 3 in {row["round"] for row in run.metrics()}
    assert {point.round for point in points(run)} == {0, 1, 2}


def timestamp(at: str) -> float:
    return datetime.strptime(at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def scalars(folder: Path) -> tuple[dict[tuple[int, str], tuple[float, float]], dict[str, str]]:
    """What TensorBoard reads: numbers and their times by round and tag, and the texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    tags: dict[str, Any] = found.Tags()
    numbers = {(s.step, tag): (s.value, s.wall_time) for tag in tags["scalars"] for s in found.Scalars(tag)}
    return numbers, {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags["tensors"]}


def test_tensorboard_reads_a_run_and_a_second_export_adds_nothing(begun: Path, tmp_path: Path) -> None:
    logs, run = tmp_path / "logs", record.open(begun).run()
    assert "numbers; tensorboard --logdir" in to_tensorboard(run, logs)
    (file,) = (logs / run.run_id).iterdir()
    before = file.stat()
    assert "has all of it" in to_tensorboard(run, logs)
    assert (os.listdir(file.parent), file.stat().st_mtime_ns) == ([file.name], before.st_mtime_ns)
    numbers, texts = scalars(file.parent)
    expected = {(p.round, p.name): (p.value, p.at) for p in points(run)}
    assert numbers.keys() == expected.keys()
    for key, (value, at) in expected.items():
        assert numbers[key] == (pytest.approx(value, nan_ok=True), at)
    assert json.loads(texts["run"])["run_id"] == run.run_id
    assert json.loads(texts["settings"]) == SHOWN, "without addresses and folders"
    story.write(begun, recorded_round(2, loss=0.125))
    to_tensorboard(record.open(begun).run(), logs)
    assert os.listdir(file.parent) == [file.name]
    assert scalars(file.parent)[0][2, "loss"][0] == 0.125


def test_where_a_tool_is_missing_a_line_says_what_to_install(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record.open(begun).run()
    for name in ("mlflow", "tensorboard.summary.writer.record_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"pip install 'flserver\[tensorboard\]'"):
        to_tensorboard(run, tmp_path / "logs")
    with pytest.raises(UsageError, match=r"pip install 'flserver\[mlflow\]'"):
        list(to_mlflow(run, "sqlite:///never.db", "flserver"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run_cli(["--db", str(begun), "export", "--to", "mlflow"]) == 2
    assert "--to mlflow needs --out: a tracking URI" in capsys.readouterr().err
    assert run_cli(["--db", str(begun), "export", "--to", "tensorboard", "--out", str(begun / "below a file")]) == 2
    assert not (tmp_path / "logs").exists()


# --- MLflow, in a process of its own: it starts threads and stays connected ------------------------------------------

READ_BACK = """
import json, sys
from flserver.cli.main import run_cli
from mlflow import MlflowClient

db, uri, folder = sys.argv[1:]
def export(*more):
    assert run_cli(["--db", db, "export", "night", "--to", "mlflow", "--out", uri, *more]) == 0
def read():
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = client.search_experiments(filter_string="name = 'flserver'")
    (run,) = client.search_runs([experiment.experiment_id])
    history = {key: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, key))
               for key in run.data.metrics}
    files = [f.path for f in client.list_artifacts(run.info.run_id, "model")]
    copies = [client.download_artifacts(run.info.run_id, path, folder) for path in files]
    return {"name": run.info.run_name, "status": run.info.status, "start": run.info.start_time,
            "params": run.data.params, "tags": run.data.tags, "history": history, "copies": copies}
export()
first = read()
export()
second = read()
export("--with-model")
export("--with-model")
print("READ", json.dumps([first, second, read()]))
"""


def test_mlflow_reads_a_run_and_a_second_export_adds_nothing(tmp_path: Path) -> None:
    db, place = tmp_path / "runs.sqlite", tmp_path / "mlflow"
    write_database(db)
    (place / "copies").mkdir(parents=True)
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONPATH": str(ROOT)}
    arguments = (str(db), f"sqlite:///{place / 'mlflow.db'}", str(place / "copies"))
    done = subprocess.run(
        [sys.executable, "-c", READ_BACK, *arguments],
        cwd=place,  # where it puts artifacts
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    first, second, last = json.loads(said[-1].removeprefix("READ "))
    assert first == second, "a second time adds nothing"
    assert ": 0 numbers, 0 settings, 0 tags added" in said[1]
    run = record.open(db).run("night")
    assert (first["name"], first["status"], first["params"]) == (
        "night",
        "FINISHED",
        {key: str(value) for key, value in run.settings.items()},
    )
    assert first["start"] == round(timestamp(run.row["started_at"]) * 1000)
    history: dict[str, list[list[float]]] = {}
    for point in points(run):
        history.setdefault(point.name, []).append([point.round, point.value, round(point.at * 1000)])
    assert first["history"] == history
    assert first["tags"]["flserver.run_id"] == RUN
    assert first["tags"]["flserver.best_digest"] == run.round("best").digest
    assert SCREEN_CLEARER not in json.dumps(first)
    assert first["copies"] == []
    (copy,) = last["copies"]
    assert Path(copy).read_bytes() == run.round("last").checkpoint().read_bytes()
