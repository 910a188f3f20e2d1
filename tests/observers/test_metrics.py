"""The exposition: its names, its closed label sets, and that a restored run reads like an observed one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from flserver import events as e
from flserver.events import words
from flserver.events.totals import Totals
from flserver.observers import tally
from flserver.observers.metrics import ELSEWHERE, Metrics
from flserver.store.database import at
from tests import facts
from tests.observers.names import COUNTERS, GAUGES, HISTOGRAMS, NODE_COUNTERS, NODE_GAUGES
from tests.observers.observed_run import SERVER_STARTED, committed
from tests.observers.samples import lasting_samples, samples, value


def new_metrics(**gauges: float) -> Metrics:
    def reads(value: float) -> Callable[[], float]:
        return lambda: value

    return Metrics({name: reads(gauges.get(name, 7.0)) for name in ELSEWHERE})


def observed(events: list[e.Event]) -> Metrics:
    metrics = new_metrics()
    for event in events:
        metrics.observe(event)
    return metrics


def test_every_name_of_the_contract_has_a_sample(run_events: list[e.Event]) -> None:
    metrics = observed([SERVER_STARTED, *run_events, facts.node_started()])
    metrics.commit_took(0.002)
    found = {name for name, _ in samples(metrics)}
    wanted = {
        *GAUGES,
        *NODE_GAUGES,
        *COUNTERS,
        *NODE_COUNTERS,
        *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")),
    }
    assert found == wanted


def test_types_and_help(run_events: list[e.Event]) -> None:
    families = {family.name: family for family in parse_text(observed(run_events).exposition()[0].decode())}
    ours = {name: family.type for name, family in families.items() if name.startswith("flserver_")}
    assert ours == (
        {f"flserver_{name}": "gauge" for name in (*GAUGES, *NODE_GAUGES)}
        | {f"flserver_{name.removesuffix('_total')}": "counter" for name in (*COUNTERS, *NODE_COUNTERS)}
        | {f"flserver_{name}": "histogram" for name in HISTOGRAMS}
    )
    assert all(family.documentation for family in families.values())


def test_no_created_series_and_openmetrics_parses(run_events: list[e.Event]) -> None:
    body, content_type = observed([SERVER_STARTED, *run_events]).exposition("application/openmetrics-text")
    assert "openmetrics" in content_type
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    names = {sample.name for family in families for sample in family.samples}
    assert "flserver_updates_total" in names
    assert not [name for name in names if name.endswith("_created")]


def test_process_metrics_are_there() -> None:
    assert b"process_resident_memory_bytes" in new_metrics().exposition()[0]


def test_closed_sets_are_complete_from_the_start() -> None:
    headers = ("<METADATA>", "<SUCCESS>", "<ERROR>", "<MODEL>", "<FINISHED>", "other")
    wanted: dict[str, list[dict[str, str]]] = {
        "run_state": [{"state": s} for s in ("joining", "running", "waiting", "completed", "interrupted", "failed")],
        "rounds_total": [{"status": s} for s in ("committed", "aborted")],
        "connections_total": [{"purpose": p} for p in ("register", "upload", "unknown")],
        "messages_total": [
            {"direction": d, "header": h, "outcome": o}
            for d in ("in", "out")
            for h in headers
            for o in ("ok", "refused", "failed")
        ],
        "message_bytes_total": [{"direction": d, "header": h} for d in ("in", "out") for h in headers],
        "updates_total": [{"decision": d} for d in ("accepted", "late", "duplicate", "rejected", "aborted", "lost")],
        "rejected_updates_total": [
            {"reason": r}
            for r in ("names", "shape", "dtype", "non_finite", "norm", "weight_share", "unreadable", "size", "other")
        ],
        "dropouts_total": [{"reason": r} for r in ("closed", "reset", "timeout", "protocol", "node", "other")],
        "round_phase_duration_seconds_count": [
            {"phase": p} for p in ("broadcast", "wait", "aggregate", "evaluate", "checkpoint")
        ],
        "rejoins_total": [{}],
        "audit_events_total": [{}],
        "audit_write_errors_total": [{}],
    }
    found = samples(new_metrics())
    for name, label_sets in wanted.items():
        mine = {labels: number for (other, labels), number in found.items() if other == name}
        assert mine == {frozenset(labels.items()): 0.0 for labels in label_sets}, name


def test_an_events_strange_values_open_no_new_series(run_events: list[e.Event]) -> None:
    labels_before = {key for key in samples(new_metrics()) if key[0] in COUNTERS}
    assert {key for key in samples(observed(run_events)) if key[0] in COUNTERS} == labels_before


def test_counts_of_a_run(run_events: list[e.Event]) -> None:
    metrics = observed(run_events)
    decisions = {d: value(metrics, "updates_total", decision=d) for d in words.DECISIONS}
    assert decisions == {"accepted": 2, "late": 1, "duplicate": 1, "rejected": 2, "aborted": 1, "lost": 0}
    assert value(metrics, "rejected_updates_total", reason="non_finite") == 1
    assert value(metrics, "rejected_updates_total", reason="other") == 1
    assert {r: value(metrics, "dropouts_total", reason=r) for r in words.DROPOUT_REASONS} == {
        "closed": 0,
        "reset": 1,
        "timeout": 0,
        "protocol": 0,
        "node": 0,
        "other": 1,
    }
    assert value(metrics, "rejoins_total") == 1
    assert value(metrics, "messages_total", direction="in", header="other", outcome="refused") == 2
    assert value(metrics, "message_bytes_total", direction="in", header="other") == 82
    assert value(metrics, "message_bytes_total", direction="out", header="<MODEL>") == 32_500
    assert value(metrics, "audit_events_total") == len(run_events)
    assert value(metrics, "round_duration_seconds_bucket", le="2.5") == 2
    assert value(metrics, "round_duration_seconds_sum") == 12.625
    assert value(metrics, "round_phase_duration_seconds_count", phase="evaluate") == 1


def test_gauges_of_a_run(run_events: list[e.Event]) -> None:
    metrics = observed(run_events)
    wanted = {
        "current_round": 2,
        "planned_rounds": 10,
        "participants": 2,
        "round_updates": 1,
        "min_updates": 2,
        "connected_clients": 1,
        "model_loss": 0.412,
        "model_accuracy_ratio": 0.887,
        "clients_loss": 0.75,
        "clients_accuracy_ratio": 0.625,
        "checkpoint_bytes": 31_500,
        "last_checkpoint_timestamp_seconds": 1769850005.25,
        "round_start_timestamp_seconds": 1769850000,
        "round_deadline_timestamp_seconds": 1769857200,
    }
    assert {name: value(metrics, name) for name in wanted} == wanted
    assert value(metrics, "run_state", state="running") == 1
    run = {"run_id": "r1", "name": "first", "model": "neural_net_helper:NeuralNet", "strategy": "fedavg"}
    assert value(metrics, "run_info", **run) == 1
    metrics.observe(facts.run_ended(run_id="r1"))
    assert [value(metrics, "run_state", state=state) for state in words.RUN_STATES] == [0, 0, 0, 1, 0, 0]


def test_an_unknown_loss_has_no_sample() -> None:
    metrics = observed([committed(0, loss=None, accuracy=None)])
    for name in ("model_loss", "model_accuracy_ratio", "clients_loss", "clients_accuracy_ratio"):
        assert value(metrics, name) is None


@pytest.mark.parametrize("measured", [math.nan, math.inf, -math.inf])
def test_the_loss_of_a_model_that_diverged_is_what_it_is(measured: float) -> None:
    metrics = observed([committed(0, loss=measured, accuracy=0.1)])
    assert repr(value(metrics, "model_loss")) == repr(measured)
    assert value(metrics, "model_accuracy_ratio") == 0.1


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_restored_run_reads_like_an_observed_one(
    seen_before: bool,
    run_events: list[e.Event],
    run_totals: Totals,
    run_facts: tally.RunFacts,
    last_round: tally.LastRound,
) -> None:
    resumed = observed(run_events if seen_before else [])
    resumed.restore(run_facts, run_totals, last_round)
    assert lasting_samples(resumed) == lasting_samples(observed(run_events))
    assert value(resumed, "current_round") == 1


def test_a_left_over_run_counts_once_through_sql(
    run_totals: Totals, run_facts: tally.RunFacts, last_round: tally.LastRound
) -> None:
    metrics = new_metrics()
    metrics.restore(run_facts, run_totals, last_round)
    metrics.observe(facts.run_left_over("r1"))
    assert value(metrics, "audit_events_total") == run_totals.events
    metrics.observe(facts.run_resumed(1, 20, "r1"))
    assert value(metrics, "audit_events_total") == run_totals.events + 1
    assert value(metrics, "planned_rounds") == 20


def test_the_process_own_numbers_outlive_a_restore(
    run_totals: Totals, run_facts: tally.RunFacts, last_round: tally.LastRound
) -> None:
    metrics = new_metrics()
    metrics.commit_took(0.003)
    metrics.write_failed()
    metrics.restore(run_facts, run_totals, last_round)
    assert value(metrics, "audit_commit_duration_seconds_count") == 1
    assert value(metrics, "audit_commit_duration_seconds_bucket", le="0.0025") == 0
    assert value(metrics, "audit_commit_duration_seconds_bucket", le="0.005") == 1
    assert value(metrics, "audit_write_errors_total") == 1


def test_values_that_live_elsewhere_are_read_at_each_scrape() -> None:
    queue = [3.0]
    metrics = Metrics({"audit_queue_length": lambda: queue[0], "model_parameters": lambda: None})
    assert value(metrics, "audit_queue_length") == 3
    queue[0] = 4.0
    assert value(metrics, "audit_queue_length") == 4
    assert value(metrics, "model_parameters") is None
    with pytest.raises(ValueError, match="no such gauges: speed"):
        Metrics({"speed": lambda: 1.0})


def test_the_record_goes_on_while_a_value_is_read() -> None:
    def slow_disk() -> float:
        metrics.commit_took(0.001)  # what another thread does meanwhile: it would wait for ever if the lock were held
        return 1.0

    metrics = Metrics({"database_bytes": slow_disk})
    assert value(metrics, "audit_commit_duration_seconds_count") == 1


def test_a_run_name_that_does_not_encode_costs_no_scrape() -> None:
    strange = facts.run_started(name='a"\n\ud800')
    labels = [dict(labels) for name, labels in samples(observed([strange])) if name == "run_info"]
    assert [found["name"] for found in labels] == ['a"\\n\\ud800']


def test_database_bytes_counts_the_log(tmp_path: Path) -> None:
    database = tmp_path / "runs.sqlite"
    assert at(database).bytes() == 0
    database.write_bytes(b"x" * 100)
    assert at(database).bytes() == 100
    (tmp_path / "runs.sqlite-wal").write_bytes(b"x" * 11)
    assert at(database).bytes() == 111
