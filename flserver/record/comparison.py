"""Runs held beside each other: the settings in which they differ, what their trainers told, their curves, their best
rounds, their times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from flserver.errors import UsageError
from flserver.events.words import MetricSource
from flserver.models.retention import MadeRound, best
from flserver.record.told import Values, told_by_trainers, told_that_differs
from flserver.settings.recorded import settings_of
from flserver.store.reader import Reader, Row

Curve = Mapping[int, float | None]
"""A number by committed round, NaN and the infinities as they are; None where it was not measured."""

BESIDE_SETTINGS = ("model", "strategy", "seed", "server_version", "arithmetic", "parent_run_id", "parent_round")
"""Columns of v1_runs that say how a run came about, as its settings do."""
PLACE = ("host", "server_port", "metrics_host", "metrics_port", "checkpoint_dir", "audit_head", "group")
"""Settings that say where a run is at home, and nothing of what it learns."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A committed round: ``loss`` in nats, ``accuracy`` from 0 to 1; None where it was not measured, and NaN or
    infinite where it was and is that."""

    round: int
    loss: float | None
    accuracy: float | None
    model_digest: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """One run of several. ``clients`` are those that registered, ``seconds`` the median of a committed round's, from
    round 1 on; ``best`` is by the rule of ``models.retention.best``."""

    run_id: str
    name: str
    status: str
    rounds_committed: int
    num_rounds: int
    clients: int
    updates_accepted: int
    seconds: float | None
    best: Measured | None
    last: Measured | None
    loss: Curve
    accuracy: Curve


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``differing`` has each setting that is not the same in all runs, with its values in their order, those of
    ``PLACE`` last; ``equal`` are so many. A setting that an older version did not have is None. ``told`` has what
    trainers told that is not the same in all runs; ``silent`` are the ids of the runs whose trainers told nothing."""

    runs: tuple[Side, ...]
    differing: Mapping[str, tuple[Any, ...]]
    equal: int
    told: Mapping[str, tuple[Values, ...]]
    silent: tuple[str, ...]


def different_runs(reader: Reader, refs: Sequence[str]) -> list[Row]:
    """The rows of v1_runs that ``refs`` mean, in their order. Raises UsageError where two mean the same run."""
    rows = [reader.run(ref) for ref in refs]
    for place, row in enumerate(rows):
        before = [ref for ref, other in zip(refs, rows[:place], strict=False) if other["run_id"] == row["run_id"]]
        if before:
            raise UsageError(f"{before[0]!r} and {refs[place]!r} are the same run, {row['run_id']}")
    return rows


def compare(reader: Reader, runs: Sequence[Row]) -> Comparison:
    """Compare ``runs``, which are rows of v1_runs."""
    differing, equal = settings_beside(runs)
    told = [told_by_trainers(reader, run["run_id"]) for run in runs]
    return Comparison(
        runs=tuple(side(reader, run) for run in runs),
        differing=differing,
        equal=equal,
        told=told_that_differs(told),
        silent=tuple(run["run_id"] for run, each in zip(runs, told, strict=True) if not each),
    )


def settings_beside(runs: Sequence[Row]) -> tuple[dict[str, tuple[Any, ...]], int]:
    """The settings that are not the same in all ``runs``, with their values, and how many are the same."""
    settings = [_how(run) for run in runs]
    names = sorted({name for each in settings for name in each}, key=lambda name: (name in PLACE, name))
    values = {name: tuple(each.get(name) for each in settings) for name in names}
    differing = {name: found for name, found in values.items() if any(value != found[0] for value in found)}
    return differing, len(values) - len(differing)


def _how(run: Row) -> dict[str, Any]:
    """What was settled for a run, by name."""
    return settings_of(run) | {name: run[name] for name in BESIDE_SETTINGS if name in run}


def side(reader: Reader, run: Row) -> Side:
    """What is told of ``run``, a row of v1_runs, beside others."""
    rounds = reader.committed_rounds(run["run_id"])
    found = best(map(MadeRound.of, rounds))
    by_number = {row["round"]: row for row in rounds}
    _, ((clients,),) = reader.query(_CLIENTS, {"run_id": run["run_id"]})
    unknown = any(row[name] is None for row in rounds for name in ("loss", "accuracy"))
    beyond = reader.not_finite(run["run_id"]) if unknown else {}

    def curve(name: str) -> Curve:
        return {row["round"]: beyond.get((row["round"], name)) if row[name] is None else row[name] for row in rounds}

    trained = [row["seconds"] for row in rounds if row["round"] > 0 and row["seconds"] is not None]
    return Side(
        run_id=run["run_id"],
        name=run["name"],
        status=run["status"],
        rounds_committed=run["rounds_committed"],
        num_rounds=run["num_rounds"],
        clients=clients,
        updates_accepted=sum(row["updates_accepted"] or 0 for row in rounds),
        seconds=median(trained) if trained else None,
        best=None if found is None else _measured(reader, by_number[found.round]),
        last=_measured(reader, rounds[-1]) if rounds else None,
        loss=curve("loss"),
        accuracy=curve("accuracy"),
    )


def _measured(reader: Reader, row: Row) -> Measured:
    number, told = row["round"], {name: row[name] for name in ("loss", "accuracy")}
    if None in told.values():  # not measured, or no number that a column holds
        for source in _BY_SERVER:
            told |= {
                name: value for name, value in reader.measured(row["run_id"], number, source).items() if name in told
            }
    return Measured(round=number, loss=told["loss"], accuracy=told["accuracy"], model_digest=row["model_digest"])


_BY_SERVER: tuple[MetricSource, ...] = ("server", "evaluate")


_CLIENTS = "SELECT COUNT(DISTINCT client_id) FROM v1_clients WHERE run_id = :run_id"
