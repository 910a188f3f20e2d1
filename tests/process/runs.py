"""Runs on record, without a database, and what a process makes of them."""

import json
from collections.abc import Mapping
from typing import Any, cast

from flserver.errors import UsageError
from flserver.process.which_run import Complete, Plan, plan_run
from flserver.settings import server_settings
from flserver.settings.recorded import config_of
from flserver.store.reader import Reader


class FakeReader:
    """Runs as v1_runs shows them, the newest last, and their committed rounds."""

    def __init__(
        self,
        *runs: Mapping[str, Any],
        rounds: Mapping[int, Mapping[str, Any]] | None = None,
        quorums: Mapping[str, int] | None = None,
    ) -> None:
        self._runs = runs
        self._rounds = rounds or {}
        self._quorums = quorums or {}

    def min_updates(self, run_id: str) -> int | None:
        return self._quorums.get(run_id)

    def code(self, run_id: str) -> Mapping[str, str]:
        return {}

    def runs(self) -> list[Mapping[str, Any]]:
        return [*reversed(self._runs)]

    def newest_run(self, ref: str | None = None) -> Mapping[str, Any] | None:
        by_id = [run for run in self._runs if run["run_id"] == ref]
        return next((run for run in [*by_id, *reversed(self._runs)] if ref in (None, run["run_id"], run["name"])), None)

    def run(self, ref: str, *, exact: bool = False) -> Mapping[str, Any]:
        found = self.newest_run(ref)
        if found is None:
            raise UsageError(f"no run {ref}")
        return found

    def committed_rounds(self, run_id: str) -> list[Mapping[str, Any]]:
        return [self.committed_round(run_id, number) for number in sorted(self._rounds)]

    def committed_round(self, run_id: str, number: int | None) -> Mapping[str, Any]:
        number = max(self._rounds) if number is None else number
        if number not in self._rounds:
            raise UsageError(f"no round {number}")
        return {"round": number, "checkpoint_deleted_at": None, **self._rounds[number]}


def found(status: str, name: str = "night", run_id: str = "r1", **config: Any) -> dict[str, Any]:
    """A run that was started with ``config``, the rest by default."""
    settings = server_settings(config)
    return {
        "run_id": run_id,
        "name": name,
        "status": status,
        "num_rounds": settings.rounds.num_rounds,
        "strategy": settings.model.strategy,
        "config": json.dumps(config_of(settings)),
    }


def decide(*runs: Mapping[str, Any], typed: bool = False, **given: Any) -> Plan | Complete:
    """The plan of a process that was started with the options ``given``, ``typed`` at a terminal or not."""
    reader = cast(Reader, FakeReader(*runs))
    return plan_run(reader, server_settings(given), given, typed=typed)


def planned(*runs: Mapping[str, Any], **given: Any) -> Plan:
    plan = decide(*runs, **given)
    assert isinstance(plan, Plan)
    return plan


def is_new(plan: Plan) -> bool:
    return plan.resumed is None and plan.run_id != "r1" and plan.overrides == {}
