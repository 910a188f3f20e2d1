"""What an exposition shows, sample by sample."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families as parse_text

from flserver.observers.metrics import Metrics
from tests.observers.names import COUNTERS, HISTOGRAMS

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]

LASTING = {
    *COUNTERS,
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")),
    "run_info",
    "planned_rounds",
    "min_updates",
    "model_loss",
    "model_accuracy_ratio",
    "clients_loss",
    "clients_accuracy_ratio",
    "checkpoint_bytes",
    "last_checkpoint_timestamp_seconds",
}
"""What a resumed process shows as the one before it did."""


def samples(metrics: Metrics) -> Samples:
    text = metrics.exposition()[0].decode()
    return {
        (sample.name.removeprefix("flserver_"), frozenset(sample.labels.items())): sample.value
        for family in parse_text(text)
        for sample in family.samples
        if sample.name.startswith("flserver_")
    }


def lasting_samples(metrics: Metrics) -> Samples:
    return {key: number for key, number in samples(metrics).items() if key[0] in LASTING}


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))
