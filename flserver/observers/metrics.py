"""The run's numbers as Prometheus metrics. The only module that imports prometheus_client.

The library's own counters and histograms cannot be loaded with a run's past, so a collector of our own turns a
:class:`~flserver.observers.tally.Tally` into metric families at every scrape.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from flserver.events import Event
from flserver.events.totals import Totals
from flserver.events.words import RUN_STATES
from flserver.observers.histogram import COMMIT_BUCKETS, Histogram
from flserver.observers.node_tally import NodeTally
from flserver.observers.tally import LastRound, RunFacts, Tally
from flserver.text import printable

ELSEWHERE: Mapping[str, str] = {
    "answered_clients": "Clients that have done what is waited for (awaited_clients: that have not).",
    "awaited_clients": "Clients waited for: to register, to come back so that a round can begin, or to answer.",
    "inflight_bytes": "Bytes of updates being received or held, and of the sum of a round.",
    "inflight_limit_bytes": "Memory for updates; beyond it they lie in files.",
    "open_connections": "Connections that are served now, also those that have no row yet.",
    "open_connections_limit": "Connections at once.",
    "model_parameters": "Numbers in the global model's parameters.",
    "database_bytes": "Size of the database and its write-ahead log.",
    "audit_queue_length": "Events that wait for their transaction.",
    "audit_queue_length_limit": "Events that may wait; an eighth of it is for what no round rests on.",
    "audit_sequence": "Sequence number of the newest committed event in the database.",
}
"""The gauges whose values live elsewhere, with their help."""

Gauges = Mapping[str, Callable[[], float | None]]


class Metrics(Collector):
    """Observes the record and exposes it. Every method may be called from any thread.

    ``gauges`` reads the values of :data:`ELSEWHERE` at each scrape; a value of None, or a name left out, is exposed
    without a sample. Raises ValueError for any other name.
    """

    def __init__(self, gauges: Gauges) -> None:
        if unknown := gauges.keys() - ELSEWHERE.keys():
            raise ValueError(f"no such gauges: {', '.join(sorted(unknown))}")
        self._gauges = gauges
        self._lock = Lock()  # guards the three below; never held over a gauge's call or an encoder
        self._tally = Tally()
        self._commit_seconds = Histogram(COMMIT_BUCKETS)
        self._write_errors = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(self, event: Event) -> None:
        """Count an event that is durable."""
        with self._lock:
            self._tally.observe(event)

    def restore(self, run: RunFacts, totals: Totals, last: LastRound | None) -> None:
        """Take over what SQL knows of ``run``, to count on from there; see :meth:`Tally.restore`."""
        with self._lock:
            self._tally.restore(run, totals, last)

    def commit_took(self, seconds: float) -> None:
        """A transaction of the audit record was committed in ``seconds``."""
        with self._lock:
            self._commit_seconds.observe(seconds)

    def write_failed(self) -> None:
        """A transaction of the audit record failed."""
        with self._lock:
            self._write_errors += 1

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics and their content type, in the format that the ``Accept`` header asks for."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none, which the library does not foresee
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry then does not scrape at registration to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One consistent snapshot of all families."""
        elsewhere = {name: read() for name, read in self._gauges.items()}
        with self._lock:
            families = [*_run_gauges(self._tally), *_counters(self._tally), *_histograms(self._tally)]
            failed = "Transactions of the record that failed."
            families.append(_counter("audit_write_errors_total", failed, self._write_errors))
            families.append(
                _histogram("audit_commit_duration_seconds", "Time of a transaction.", {(): self._commit_seconds})
            )
        families += [_gauge(name, help_text, elsewhere.get(name)) for name, help_text in ELSEWHERE.items()]
        return families


def _run_gauges(tally: Tally) -> list[Metric]:
    run, last = tally.run, tally.last or LastRound()
    run_values = (run.run_id, run.name, run.model, run.strategy) if run else None
    build = (
        (tally.server.server_version, tally.server.python_version, tally.server.torch_version) if tally.server else None
    )
    state = GaugeMetricFamily("flserver_run_state", "1 for the state that the run is in.", labels=("state",))
    for name in RUN_STATES:
        state.add_metric((name,), float(name == tally.state))
    return [
        _info("build", "The versions that run.", ("version", "python", "torch"), build),
        _info("run", "The current run.", ("run_id", "name", "model", "strategy"), run_values),
        state,
        _gauge("current_round", "The round of the newest attempt.", tally.current_round),
        _gauge("planned_rounds", "The round after which the run is complete.", tally.planned_rounds),
        _gauge("participants", "Clients invited to the newest attempt.", tally.participants),
        _gauge("round_updates", "Updates that count in the newest attempt.", tally.round_updates),
        _gauge("min_updates", "Updates that a round needs.", tally.min_updates),
        _gauge("round_start_timestamp_seconds", "Start of the newest attempt.", tally.round_started),
        _gauge("round_deadline_timestamp_seconds", "Deadline of the newest attempt.", tally.round_deadline),
        _gauge("connected_clients", "Registrations whose connection lives.", tally.connected_clients),
        _gauge("model_loss", "Loss of the last committed round's model; absent where not measured.", last.loss),
        _gauge("model_accuracy_ratio", "Its accuracy, 0 to 1, likewise.", last.accuracy),
        _gauge("clients_loss", "Mean loss of its clients on the received model.", last.clients_loss),
        _gauge("clients_accuracy_ratio", "Mean accuracy, measured likewise, 0 to 1.", last.clients_accuracy),
        _gauge("last_checkpoint_timestamp_seconds", "When the last committed round was committed.", last.committed_at),
        _gauge("checkpoint_bytes", "Size of the last committed round's checkpoint.", last.checkpoint_bytes),
        _by_slot(GaugeMetricFamily, "node_up", "1 while an ingest node is in this slot.", tally.nodes.up),
        _by_slot(
            GaugeMetricFamily, "node_open_connections", "Connections with a row that a node serves.", tally.nodes.open
        ),
    ]


def _counters(tally: Tally) -> list[Metric]:
    return [
        _labelled("rounds_total", "Attempts that ended, by status.", ("status",), tally.rounds),
        _labelled("connections_total", "Closed connections, by purpose.", ("purpose",), tally.connections),
        _labelled("messages_total", "Messages.", ("direction", "header", "outcome"), tally.messages),
        _labelled("message_bytes_total", "Their bytes on the wire.", ("direction", "header"), tally.message_bytes),
        _labelled("updates_total", "Decided updates, by decision.", ("decision",), tally.updates),
        _labelled("rejected_updates_total", "Rejected updates, by reason.", ("reason",), tally.rejected),
        _labelled("dropouts_total", "Registrations that ended before the run did.", ("reason",), tally.dropouts),
        _counter("rejoins_total", "Participants that registered again.", tally.rejoins),
        _counter("audit_events_total", "Events of the run in the audit record.", tally.events),
        *_of_nodes(tally.nodes),
    ]


def _of_nodes(nodes: NodeTally) -> list[Metric]:
    """By slot, for as many as the run has had; none without ``--ingest``."""
    counter = CounterMetricFamily
    return [
        _by_slot(counter, "nodes_lost_total", "Ingest nodes that were gone, by slot.", nodes.lost),
        _by_slot(counter, "node_connections_total", "Connections that a node accepted.", nodes.connections),
        _by_slot(counter, "node_updates_total", "Decided updates that came by a node.", nodes.updates, "decision"),
        _by_slot(counter, "node_message_bytes_total", "Bytes of messages on the wire.", nodes.bytes, "direction"),
    ]


def _by_slot(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    help_text: str,
    values: Mapping[Any, float],
    *more: str,
) -> Metric:
    """By the slot of a node, and by what comes after it in the keys."""
    family = kind(f"flserver_{name}", help_text, labels=("slot", *more))
    for key, value in values.items():
        family.add_metric([str(part) for part in (key if isinstance(key, tuple) else (key,))], value)
    return family


def _histograms(tally: Tally) -> list[Metric]:
    phases: dict[tuple[str, ...], Histogram] = {(phase,): histogram for phase, histogram in tally.phase_seconds.items()}
    return [
        _histogram("round_duration_seconds", "Duration of an attempt.", {(): tally.round_seconds}),
        _histogram("round_phase_duration_seconds", "Duration of a phase of an attempt.", phases, ("phase",)),
        _histogram("client_update_duration_seconds", "Model sent to update received.", {(): tally.client_seconds}),
        _histogram("checkpoint_duration_seconds", "Time to write a checkpoint.", {(): tally.checkpoint_seconds}),
    ]


def _gauge(name: str, help_text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"flserver_{name}", help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"flserver_{name}", help_text, value=value)


def _info(name: str, help_text: str, labels: Sequence[str], values: Sequence[str] | None) -> Metric:
    family = InfoMetricFamily(f"flserver_{name}", help_text)
    if values is not None:
        # A lone surrogate in a name would make the whole scrape fail to encode.
        family.add_metric((), dict(zip(labels, map(printable, values), strict=True)))
    return family


def _labelled(name: str, help_text: str, labels: Sequence[str], values: Mapping[Any, int]) -> Metric:
    """Counters by label value, or by a tuple of them where there are several labels."""
    family = CounterMetricFamily(f"flserver_{name}", help_text, labels=labels)
    for key, value in values.items():
        family.add_metric((key,) if isinstance(key, str) else key, value)
    return family


def _histogram(
    name: str, help_text: str, histograms: Mapping[tuple[str, ...], Histogram], labels: Sequence[str] = ()
) -> Metric:
    family = HistogramMetricFamily(f"flserver_{name}", help_text, labels=labels)
    for values, histogram in histograms.items():
        buckets = [(_le(bound), float(count)) for bound, count in histogram.cumulative()]
        family.add_metric(values, buckets, histogram.sum)
    return family


def _le(bound: float) -> str:
    """A bucket's bound as OpenMetrics wants it: ``0.5``, ``1.0``, ``+Inf``."""
    return "+Inf" if bound == float("inf") else repr(float(bound))
