"""What is kept of what clients say beside their models: as much as a budget of bytes, as they are stored, has room for.

Pure. Beyond it nothing is kept, and the reason of the message says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flserver.events import ClientMetric
from flserver.store.payloads import canonical_json
from flserver.wire.messages import Measurement

MOST_METRICS = 8192  # bytes of an update's metrics: 64 of them with names as people give them
MOST_INFO = 8192  # bytes of a registration's info, and again of its other fields


def kept_metrics(measured: Sequence[Measurement]) -> tuple[tuple[ClientMetric, ...], str | None]:
    """The first of the numbers that there is room for; what to say of the others."""
    metrics = [ClientMetric(name=m.name, measured_on=m.measured_on, value=m.value) for m in measured]
    count = _within((canonical_json(metric) for metric in metrics), MOST_METRICS)
    return tuple(metrics[:count]), _beyond("metrics", count, len(metrics), MOST_METRICS)


def kept_fields(what: str, fields: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The first of the fields that there is room for; what to say of the others."""
    count = _within((canonical_json({name: value}) for name, value in fields.items()), MOST_INFO)
    return dict(list(fields.items())[:count]), _beyond(what, count, len(fields), MOST_INFO)


def _within(texts: Iterable[str], room: int) -> int:
    """How many of the texts, from the first on, have room together."""
    count = 0
    for text in texts:
        room -= len(text)
        if room < 0:
            break
        count += 1
    return count


def _beyond(what: str, count: int, given: int, room: int) -> str | None:
    return None if count == given else f"{count} of {given} {what} are kept: more than {room} bytes"


def joined(*notes: str | None) -> str | None:
    """Several things to say of a message, as its reason."""
    return "; ".join(note for note in notes if note) or None
