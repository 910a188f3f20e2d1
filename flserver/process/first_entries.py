"""The first entries that a server process makes in the record."""

import logging
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from flserver import __version__, events
from flserver.clock import utc_timestamp
from flserver.events.bus import Recorder
from flserver.events.words import OperatorAct
from flserver.observers.metrics import Metrics
from flserver.observers.tally import LastRound, RunFacts
from flserver.process.acts import acted, upgrade_detail
from flserver.process.basis import Basis
from flserver.process.launched import Launched
from flserver.process.own_code import NAMED
from flserver.process.provenance import Change, provenance, provenance_before
from flserver.process.which_run import Plan
from flserver.settings.operator import system_user
from flserver.settings.recorded import config_of
from flserver.store.database import Lock
from flserver.store.reader import Reader

if TYPE_CHECKING:
    from flserver.aggregation import Strategy

BEFORE_NAMES = "float64 fold"
"""What FedAvg did before arithmetics had names: sums in float64, in ascending order of the ids."""

logger = logging.getLogger(__name__)


def close_left_overs(recorder: Recorder, reader: Reader, lock: Lock) -> None:
    """End the runs whose process is gone: those on which nobody works, whom the lock would keep out."""
    for run_id in filter(lock.takes_over, lock.left_over(reader.left_over_runs())):
        if run_id in reader.left_over_runs():  # else somebody has just ended it
            recorder.emit(events.RunLeftOver(run_id=run_id, reason="server stopped"))
            recorder.flush()
        lock.give_back(run_id)


def restore_metrics(metrics: Metrics, plan: Plan, reader: Reader) -> None:
    """Let the counters of a resumed run go on from what SQL holds."""
    run = plan.resumed
    if run is None:
        return
    rounds, run_id = plan.settings.rounds, run["run_id"]
    facts = RunFacts(
        run_id=run_id,
        name=run["name"],
        model=run["model"],
        strategy=run["strategy"],
        num_rounds=rounds.num_rounds,
        min_updates=rounds.min_updates or reader.min_updates(run_id),
    )
    metrics.restore(facts, reader.totals(run_id), last_round(reader, run_id))


def last_round(reader: Reader, run_id: str) -> LastRound | None:
    """The last committed round of ``run_id`` as SQL knows it; None where there is none."""
    last = reader.last_committed(run_id)
    if last is None:
        return None
    own = reader.measured(run_id, last["round"], "evaluate")
    # What the clients measured was measured on the model before: it came with this round's updates.
    means = reader.measured(run_id, last["round"] - 1, "clients")
    return LastRound(
        round=last["round"],
        loss=own.get("loss", last["loss"]),
        accuracy=own.get("accuracy", last["accuracy"]),
        clients_loss=means.get("loss"),
        clients_accuracy=means.get("accuracy"),
        checkpoint_bytes=last["checkpoint_bytes"],
        committed_at=utc_timestamp(last["ended_at"]),
    )


def record_opening(recorder: Recorder, launched: Launched, process_id: int, beginning: Mapping[str, Any]) -> None:
    """Put on record which run this process works on, with which settings, and what the operator did to get here.

    ``beginning`` says where it listens and who is let in.
    """
    plan, upgrade, committed = launched.plan, launched.upgrade, launched.basis.round
    operator = plan.settings.operator
    resumed_from = committed if plan.resumed is not None and committed >= 0 else None
    now = provenance(launched.basis.code)
    before = None if plan.resumed is None else provenance_before(launched.reader, plan.run_id)
    recorder.emit(_run_begins(plan, launched.basis, resumed_from))
    recorder.emit(
        events.ServerStarted(
            process_id=process_id,
            host=socket.gethostname(),
            user=system_user(),
            pid=os.getpid(),
            server_version=__version__,
            python_version=platform.python_version(),
            torch_version=version("torch"),
            overrides=plan.overrides,
            resumed_from_round=resumed_from,
            code=now.code,
            libraries=now.libraries,
            cpu=now.cpu,
        )
    )
    if upgrade is not None:
        recorder.emit(acted("upgrade", upgrade_detail(upgrade), operator))
    kind: OperatorAct = "start" if plan.resumed is None else "resume"
    recorder.emit(acted(kind, beginning, operator))
    for key, value in plan.overrides.items():
        change = {"setting": key, "before": plan.before[key], "now": value}
        recorder.emit(acted("override", change, operator))
    if before is not None:
        record_changes(recorder, plan, [*now.changes(before)])
    store = plan.settings.store
    if store.keep_updates:
        rounds = store.keep_updates_rounds
        recorder.emit(acted("keep-updates", {"rounds": rounds or "all"}, operator))
    recorder.emit(events.StateChanged(state="joining"))
    recorder.flush()


def record_changes(recorder: Recorder, plan: Plan, changes: Sequence[Change]) -> None:
    """Say, and put on record, that a resumed run goes on with other code, other libraries or another CPU than its last
    process had. Of code that a new setting names it is on record already, and of the operator's files ``prepare``
    warns."""
    found = [change for change in changes if change.what not in {f"code.{key}" for key in plan.overrides}]
    for change in found:
        detail = {"setting": change.what, "before": change.before, "now": change.now}
        recorder.emit(acted("override", detail, plan.settings.operator))
    said = [change for change in found if change.what not in {f"code.{key}" for key in NAMED}]
    if said:
        logger.warning(
            "run %s goes on otherwise than its last process: %s",
            plan.name,
            ", ".join(f"{c.what} {c.now or 'no more'} (it was {c.before or 'not there'})" for c in said),
        )


def record_arithmetic(recorder: Recorder, plan: Plan, strategy: "Strategy") -> None:
    """Say, and put on record, that a resumed run goes on with another arithmetic than that of its last round."""
    run, now = plan.resumed, strategy.arithmetic
    if run is None or not run["rounds_committed"]:
        return
    before = run["arithmetic"] or (BEFORE_NAMES if run["strategy"] == "fedavg" else None)
    if before == now:
        return
    logger.warning(
        "run %s goes on with another arithmetic: %s, and not %s as so far. Its next rounds differ in their last bits "
        "from what the version before would have made; v1_rounds.arithmetic tells them apart",
        *(run["name"], now or "one without a name", before or "one without a name"),
    )
    change = {"setting": "arithmetic", "before": before, "now": now}
    recorder.emit(acted("override", change, plan.settings.operator))


def _run_begins(plan: Plan, basis: Basis, resumed_from: int | None) -> events.Event:
    settings, weights = plan.settings, basis.weights
    if plan.resumed is not None:
        return events.RunResumed(
            run_id=plan.run_id,
            from_round=resumed_from,
            num_rounds=settings.rounds.num_rounds,
            config=config_of(settings),
            code=basis.code,
        )
    return events.RunStarted(
        run_id=plan.run_id,
        name=plan.name,
        num_rounds=settings.rounds.num_rounds,
        model=settings.model.model,
        strategy=settings.model.strategy,
        seed=settings.model.seed,
        config=config_of(settings),
        parent_run_id=weights.run_id if weights else None,
        parent_round=weights.round if weights else None,
        code=basis.code,
    )
