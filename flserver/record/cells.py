"""Values of the record as CSV has them; what JSON has is ``text.json_text``'s."""

import re
from typing import Any

# What a spreadsheet takes for a formula, or drops from before one: https://owasp.org/www-community/attacks/CSV_Injection
FORMULAS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def plain(value: Any) -> Any:
    """``value`` as it is, but bytes as hexadecimal digits."""
    return value.hex() if isinstance(value, bytes) else value


def inert(value: Any) -> Any:
    """``value`` as a spreadsheet shows it and does not calculate it: text that it would has an apostrophe before it. A
    number is one, also as text."""
    text = plain(value)
    formula = isinstance(text, str) and text.startswith(FORMULAS) and not NUMBER.fullmatch(text)
    return f"'{text}" if formula else text
