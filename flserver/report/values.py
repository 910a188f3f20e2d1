"""Values as people read them. Pure."""

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

from flserver.clock import utc_timestamp
from flserver.text import printable

NONE = "—"
LONGEST = 200  # characters of a text from outside


def text(value: object, most: int = LONGEST) -> str:
    """Whatever somebody chose, on one line, with what is not printable as its escape."""
    return NONE if value is None or value == "" else printable(str(value), most)


def word(value: object) -> str:
    """The same as one word of a shell's command, as far as it is printable."""
    return shlex.quote(text(value, 500))


def moment(at: str | None) -> str:
    """A time on record to the second; it is UTC."""
    return NONE if at is None else f"{at[:10]} {at[11:19]}"


def between(start: str | None, end: str | None) -> float | None:
    """Seconds from one time on record to another."""
    return None if start is None or end is None else utc_timestamp(end) - utc_timestamp(start)


def duration(seconds: float | None) -> str:
    """Seconds in the units that people count in."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60):02d} s"
    return f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def seconds(value: float | None) -> str:
    """Seconds for a column of them."""
    return NONE if value is None else f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def real(value: float | None, decimals: int = 4) -> str:
    """A number with so many digits that say something; NaN and the infinities as they are on record."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(json.loads(json.dumps(str(value)))).replace("inf", "infinite").replace("nan", "NaN")
    return f"{value:,.0f}" if 10**decimals <= abs(value) < 1e15 else f"{value:.{decimals}g}"


def share(value: float | None) -> str:
    """A share from 0 to 1 in per cent; NaN and the infinities as :func:`real` has them."""
    return NONE if value is None else f"{value:.1%}" if math.isfinite(value) else real(value)


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def size(octets: int | None) -> str:
    """Bytes, in the unit in which they are a short number."""
    if octets is None:
        return NONE
    amount = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def rounds(numbers: Sequence[int]) -> str:
    """Some rounds by their numbers: ``3``, ``3, 5 and 9``, or the first of many."""
    if len(numbers) > 8:
        return f"{', '.join(map(str, numbers[:6]))} and {len(numbers) - 6} more"
    return listed([str(number) for number in numbers])


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def of(number: int, one: str, several: str | None = None) -> str:
    """A number and what it counts: ``1 update``, ``2 updates``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def as_json(value: Any) -> str:
    """JSON on record, as text for people."""
    return text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 600)
