"""A run for MLflow: found by its run_id there, and given what it has not yet."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from flserver.errors import NotInstalled, UsageError, one_line
from flserver.models.stored import fetch
from flserver.record.opened import Run
from flserver.record.series import facts_of, points, seconds, settings_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "flserver."
STATUS = {"running": "RUNNING", "completed": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
NOT_IN_A_KEY = re.compile(r"[^\w\-./ ]")
LONGEST = 5000  # characters of a value
NUMBERS, TEXTS = 1000, 100  # that MLflow takes at once

Thing = TypeVar("Thing")


def to_mlflow(run: Run, uri: str, experiment: str, *, with_model: bool = False) -> Iterator[str]:
    """Log the run to the tracking server, database or folder at ``uri``: settings as parameters, numbers by round with
    the rounds' own times, and what it is and made as tags. What is there already is left alone, so a second time adds
    nothing, and a run that went on only what is new. ``with_model`` adds the last round's checkpoint as an artifact.

    Yields lines that say what was done. Raises UsageError where there is no mlflow, or it refuses, and CheckpointError.
    """
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "true")
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise NotInstalled("there is no mlflow", "mlflow") from error
    try:
        yield from _log(MlflowClient(tracking_uri=uri), run, experiment, with_model)
    except MlflowException as error:
        raise UsageError(f"MLflow at {uri}: {one_line(error)}") from error


def _log(client: "MlflowClient", run: Run, experiment: str, with_model: bool) -> Iterator[str]:
    there = client.get_experiment_by_name(experiment)
    folder = there.experiment_id if there is not None else client.create_experiment(experiment)
    found = client.search_runs([folder], f"tags.`{TAG}run_id` = '{run.run_id}'", max_results=1)
    if found:
        logged = found[0]
    else:
        began, ours = _milliseconds(run.row["started_at"]), {f"{TAG}run_id": run.run_id}
        logged = client.create_run(folder, start_time=began, tags=ours, run_name=run.name)
    number = logged.info.run_id
    tags = _tags(client, number, run, logged.data.tags)
    params, changed = _params(client, number, settings_of(run), logged.data.params)
    metrics = _metrics(client, number, run, logged.data.metrics)
    _end(client, number, run, logged.info)
    yield f"run {run.name} is {number} in {experiment}: {metrics} numbers, {params} settings, {tags} tags added"
    if changed:
        yield f"settings that have changed since, which MLflow keeps as they were: {', '.join(changed)}"
    if with_model:
        yield _model(client, number, run)


def _tags(client: "MlflowClient", number: str, run: Run, there: Mapping[str, str]) -> int:
    wanted = {f"{TAG}{key}": value[:LONGEST] for key, value in facts_of(run).items()}
    new = {key: value for key, value in wanted.items() if there.get(key) != value}
    for key, value in new.items():
        client.set_tag(number, key, value)
    return len(new)


def _params(
    client: "MlflowClient", number: str, settings: Mapping[str, str], there: Mapping[str, str]
) -> tuple[int, list[str]]:
    from mlflow.entities import Param

    wanted = {_key(key): value[:LONGEST] for key, value in settings.items()}
    for some in _batches([Param(key, value) for key, value in wanted.items() if key not in there], TEXTS):
        client.log_batch(number, params=some)
    changed = [key for key, value in wanted.items() if key in there and there[key] != value]
    return len(wanted.keys() - there.keys()), changed


def _metrics(client: "MlflowClient", number: str, run: Run, there: Iterable[str]) -> int:
    from mlflow.entities import Metric

    had = {(key, metric.step) for key in there for metric in client.get_metric_history(number, key)}
    new = [point for point in points(run) if (_key(point.name), point.round) not in had]
    metrics = [Metric(_key(point.name), point.value, round(point.at * 1000), point.round) for point in new]
    for some in _batches(metrics, NUMBERS):
        client.log_batch(number, metrics=some)
    return len(new)


def _end(client: "MlflowClient", number: str, run: Run, info: Any) -> None:
    status, ended = STATUS[run.status], run.row["ended_at"]
    if info.status == status:
        return
    if status == "RUNNING" or ended is None:
        client.update_run(number, status=status)
    else:
        client.set_terminated(number, status, _milliseconds(ended))


def _model(client: "MlflowClient", number: str, run: Run) -> str:
    last = run.round("last")
    place = last.checkpoint()
    if any(file.path == f"model/{place.name}" for file in client.list_artifacts(number, "model")):
        return f"model/{place.name} is there already: {last.digest}"
    with TemporaryDirectory() as folder:
        client.log_artifact(number, str(fetch(place, Path(folder))), "model")
    return f"model/{place.name}: {last.digest}"


def _key(name: str) -> str:
    return NOT_IN_A_KEY.sub("_", name)


def _milliseconds(at: str) -> int:
    return round(seconds(at) * 1000)


def _batches(things: Iterable[Thing], size: int) -> Iterator[list[Thing]]:
    left = iter(things)
    while some := list(islice(left, size)):
        yield some
