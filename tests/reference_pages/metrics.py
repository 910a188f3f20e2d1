"""``metrics.md``: the families of a server that has begun a run, as the collector itself gives them."""

from collections.abc import Iterable

from prometheus_client.core import Metric

from flserver.events import NodeStarted, RunStarted, ServerStarted
from flserver.observers.metrics import Metrics
from tests.reference_pages.markdown import Undescribed, closed, code, page, table

INTRODUCTION = """
`http://127.0.0.1:9464/metrics`, or where `--metrics-host` and `--metrics-port` put it, in the text format of Prometheus
or, on request, OpenMetrics. Units are seconds, bytes, and ratios from 0 to 1.

- **Counters and histograms are the current run's.** They move when the transaction with their rows has committed, and
  after a restart they go on from what SQL says. Two have no rows and belong to the process:
  `flserver_audit_write_errors_total` and `flserver_audit_commit_duration_seconds`.
- What strangers send beyond `--strangers-per-minute` has no rows, and is counted when its sum is on record
  (`v1_summaries`), at the minute's end: counters are rows and these sums.
- **No label names a client**: per-client facts are [SQL's](views.md). The labels of what is counted have few values,
  from closed sets that are there from the start; what is in none of them counts as `other`.
- What ingest nodes do is counted by their `slot` too, from 1 to `--ingest`: `v1_nodes.slot`, which says what process on
  which machine is in it. Without `--ingest` these have no sample.
- **A number that is not known has no sample**: without `--eval-data` or `--evaluate` there is no `flserver_model_loss`.
- **Round 0**, the initial model, is a committed round here as in `v1_rounds`; `rounds_committed` in `v1_runs` leaves it
  out.
- Beside ours stand the process's own, `process_*`: memory, processor time, open descriptors.

[Watch](../README.md#watch) in the handbook has the scrape configuration, the alerts and the dashboard.
"""

KINDS = (("Gauges", ("info", "gauge")), ("Counters", ("counter",)), ("Histograms", ("histogram",)))
SUFFIXES = {"info": "_info", "counter": "_total"}
NUMBERED = ("slot",)
OPEN = ("info",)  # kinds whose labels hold what the run is called, not words of a closed set


def families() -> list[Metric]:
    """The families of a server that has begun a run."""
    metrics, some = Metrics({}), "…"
    metrics.observe(
        ServerStarted(
            process_id=1,
            host=some,
            user=some,
            pid=1,
            server_version=some,
            python_version=some,
            torch_version=some,
            overrides={},
            resumed_from_round=None,
        )
    )
    metrics.observe(
        RunStarted(
            run_id=some,
            name=some,
            num_rounds=1,
            model=some,
            strategy=some,
            seed=0,
            config={},
            parent_run_id=None,
            parent_round=None,
        )
    )
    metrics.observe(
        NodeStarted(
            node=some,
            slot=1,
            host=some,
            pid=1,
            listen_host=some,
            listen_port=1,
            code={},
            libraries={},
            cpu=some,
        )
    )
    return list(metrics.collect())


def exposed_name(family: Metric) -> str:
    """The name by which a family is asked for."""
    return family.name + SUFFIXES.get(family.type, "")


def metrics_page(found: Iterable[Metric] | None = None) -> str:
    """Raises Undescribed where a family has no help text, or is of a kind that has no section."""
    all_families = list(families() if found is None else found)
    known = {kind for _, kinds in KINDS for kind in kinds}
    for family in all_families:
        if not family.documentation or family.type not in known:
            raise Undescribed(f"{family.name}: a {family.type} with the help {family.documentation!r}")
    parts = [INTRODUCTION]
    for title, kinds in KINDS:
        mine = [family for family in all_families if family.type in kinds]
        rows = [(code(exposed_name(family)), _labels(family), family.documentation) for family in mine]
        parts += [f"## {title}", table(("metric", "labels", "meaning"), rows)]
    buckets = [(code(f.name), ", ".join(_bounds(f))) for f in all_families if f.type == "histogram"]
    parts += ["The upper bounds of their buckets, in seconds, below `+Inf`:", table(("histogram", "bounds"), buckets)]
    return page("Metrics", *parts)


def _labels(family: Metric) -> str:
    sets: dict[str, dict[str, None]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                sets.setdefault(label, {})[value] = None
    return closed(
        {label: () if family.type in OPEN or label in NUMBERED else tuple(values) for label, values in sets.items()}
    )


def _bounds(family: Metric) -> list[str]:
    bounds = dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels)
    return [f"{float(bound):g}" for bound in bounds if bound != "+Inf"]
