"""Values in the form that text can hold: what peers chose, safe for a terminal and a log; numbers, for JSON."""

import json
import math


def printable(text: str, limit: int = 200) -> str:
    """``text`` on one line, at most ``limit`` characters of it.

    What Python does not call printable (control characters, line and paragraph separators, marks that turn the
    direction of writing, lone surrogates) is written as its escape, so it can neither move the cursor, nor start a
    second log line, nor fail to encode.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut)


def three_decimals(value: float) -> str:
    """``value`` for people; NaN and the infinities as they are on record."""
    return f"{value:.3f}" if math.isfinite(value) else str(json_number(value))


def json_number(value: float) -> float | str:
    """``value`` as JSON can hold it: NaN and the infinities, which have no number there, become the texts ``NaN``,
    ``Infinity`` and ``-Infinity``. ``float`` reads them back."""
    return value if math.isfinite(value) else json.dumps(value)
