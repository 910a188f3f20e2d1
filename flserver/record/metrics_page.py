"""A server from outside, by what /metrics and /healthz say: no client has a name there."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from flserver.text import printable, three_decimals

_SAMPLE = re.compile(r"flserver_([a-z_]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A server at one moment: its samples by name and the values of their labels, in the order of these, and what
    /healthz has said."""

    samples: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)
    health: Mapping[str, Any] = field(default_factory=dict)

    def of(self, *name: str) -> float | None:
        return self.samples.get(name)

    @property
    def state(self) -> str | None:
        """One of ``events.words.RunState``; None where none is said yet."""
        return next((key[1] for key, value in self.samples.items() if key[0] == "run_state" and value == 1), None)

    @property
    def reasons(self) -> list[Any]:
        """Why it is ill, as /healthz says; empty where it is well, or says so in a form of its own."""
        said = self.health.get("reasons")
        return said if isinstance(said, list) else []

    @property
    def committed(self) -> int:
        """Committed rounds without round 0."""
        return max(0, int(self.of("rounds_total", "committed") or 0) - 1)

    @property
    def planned(self) -> int:
        return int(self.of("planned_rounds") or 0)


def seen(metrics: str, health: str) -> Seen:
    """What the texts of the two say. Raises ValueError where they are not a server's."""
    samples: dict[tuple[str, ...], float] = {}
    run: dict[str, str] = {}
    for line in metrics.splitlines():
        if match := _SAMPLE.fullmatch(line):
            labels = {name: _unescaped(value) for name, value in _LABEL.findall(match[2] or "")}
            value = float(match[3])
            if isfinite(value) or match[1].startswith("model_"):  # a diverged model's loss is NaN; no count is
                samples[(match[1], *(labels[name] for name in sorted(labels)))] = value
            run = labels if match[1] == "run_info" else run
    said = json.loads(health)
    if not samples or not isinstance(said, dict):
        raise ValueError("it is no flserver's")
    return Seen(samples=samples, run=run, health=said)


def lines(before: Seen, now: Seen) -> Iterator[str]:
    """What has changed, a line each, safe to print; ``before`` is ``Seen()`` at the first look."""
    if now.run and now.run != before.run:
        named = "" if now.run.get("name") == now.run.get("run_id") else f" ({now.run.get('name')})"
        model = f"model {now.run.get('model')}, strategy {now.run.get('strategy')}"
        yield printable(
            f"run {now.run.get('run_id')}{named}: {model}, {now.committed} of {now.planned} rounds committed"
        )
    if now.of("connected_clients") != before.of("connected_clients"):
        yield f"{now.of('connected_clients') or 0:.0f} clients connected"
    yield from _rounds(before, now)
    if before.samples:
        yield from _counted(before, now)
    if now.state is not None and now.state != before.state:
        yield f"state: {printable(now.state)}"
    reasons, earlier = now.reasons, before.reasons
    if reasons != earlier:
        yield printable(f"unhealthy: {'; '.join(map(str, reasons))}") if reasons else "healthy again"


def _rounds(before: Seen, now: Seen) -> Iterator[str]:
    started = "round_start_timestamp_seconds"
    if before.samples and now.committed > before.committed:
        facts = [f"loss {three_decimals(loss)}" for loss in [now.of("model_loss")] if loss is not None]
        facts += [
            f"accuracy {three_decimals(share)}" for share in [now.of("model_accuracy_ratio")] if share is not None
        ]
        many = f"rounds {before.committed + 1} to" if now.committed > before.committed + 1 else "round"
        yield f"{many} {now.committed}/{now.planned} committed{': ' if facts else ''}{', '.join(facts)}"
    if now.of(started) is not None and now.of(started) != before.of(started) and now.state == "running":
        number, clients = now.of("current_round") or 0, now.of("participants") or 0
        if number > now.committed:
            yield f"round {number:.0f}/{now.planned} started with {clients:.0f} clients"


COUNTED = {
    ("rounds_total", "aborted"): "attempt aborted",
    ("updates_total", "late"): "update late",
    ("updates_total", "duplicate"): "update duplicate",
    ("updates_total", "rejected"): "update rejected",
    ("updates_total", "aborted"): "update aborted",
    ("updates_total", "lost"): "update lost",
    ("rejoins_total",): "client rejoined",
}


def _counted(before: Seen, now: Seen) -> Iterator[str]:
    for key, value in now.samples.items():
        if (what := _what_is_counted(key)) is None:
            continue
        more = int(value - (before.of(*key) or 0))
        if more > 0:
            yield printable(f"{more} × {what}")


def _what_is_counted(key: tuple[str, ...]) -> str | None:
    match key:
        case "dropouts_total", reason:
            return f"client dropped out: {reason}"
        case "messages_total", direction, header, outcome if outcome != "ok":
            return f"message {outcome}: {header}, {direction}"
    return COUNTED.get(key)


def _unescaped(value: str) -> str:
    return re.sub(r'\\[n"\\]', lambda match: _ESCAPES[match[0]], value)
