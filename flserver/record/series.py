"""A run as other tools keep runs: numbers by round, each with the round's own time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flserver.record.opened import Run
from flserver.settings.shown import shareable

OF_ROUNDS = ("seconds", "wait_seconds", "aggregate_seconds", "clients", "updates_accepted", "data_size")
MEASURED = ("loss", "accuracy")


@dataclass(frozen=True)
class Point:
    """The number ``name`` of a committed round; ``at`` is when that was committed, in seconds since 1970."""

    name: str
    round: int
    value: float
    at: float


def points(run: Run) -> list[Point]:
    """All of a run, by round: ``loss`` and ``accuracy`` of its model where they were measured here, ``evaluate/…`` what
    else was, ``clients/…`` what the clients measured, and ``round/…`` columns of ``v1_rounds``. NaN and the infinities
    are numbers too. Nothing of it names a client."""
    committed = {row["round"]: row for row in run.rounds() if row["status"] == "committed"}
    found: dict[tuple[int, str], float] = {}
    for number, row in committed.items():
        named = {f"round/{name}": row[name] for name in OF_ROUNDS} | {name: row[name] for name in MEASURED}
        found |= {(number, name): float(value) for name, value in named.items() if value is not None}
    for row in run.metrics():
        short = row["source"] == "evaluate" and row["name"] in MEASURED
        name = row["name"] if short else f"{row['source']}/{row['name']}"
        found[row["round"], name] = float(row["note"] or math.nan) if row["value"] is None else row["value"]
    return [
        Point(name, number, value, seconds(committed[number]["ended_at"]))
        for (number, name), value in sorted(found.items())
        if number in committed
    ]


def settings_of(run: Run) -> Mapping[str, str]:
    """The settings in force as text, by their keys; empty where one is not set. Those that hold addresses, and those
    that this version does not know, are left out, and of a path its last part stays."""
    return {key: _text(value) for key, value in sorted(shareable(run.settings).items())}


def facts_of(run: Run) -> Mapping[str, str]:
    """What says which run it is and what it made: names, and the digests of its first, last and best model."""
    committed = [row for row in run.rounds() if row["status"] == "committed"]
    told = {key: run.row[key] for key in ("run_id", "name", "model", "strategy", "server_version", "parent_run_id")}
    if committed:
        told |= {"initial_digest": committed[0]["model_digest"], "last_digest": committed[-1]["model_digest"]}
        told |= {"last_round": committed[-1]["round"]}
    measured = [row for row in committed if row["accuracy"] is not None or row["loss"] is not None]
    if measured:
        best = run.round("best")
        told |= {"best_digest": best.digest, "best_round": best.number}
    return {key: _text(value) for key, value in told.items() if value is not None}


def seconds(at: str) -> float:
    """A time of the record (UTC, ISO 8601), in seconds since 1970."""
    return datetime.fromisoformat(at).timestamp()


def _text(value: Any) -> str:
    return "" if value is None else str(value)
