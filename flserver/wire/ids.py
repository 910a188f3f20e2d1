"""Which texts are client ids: such as people can tell apart. Pure.

Ids are compared in Unicode's normal form NFKC, in which a full-width digit is a digit and a letter with its accent is
one character; a text that is not in it already would pass for another one, and is none.
"""

import unicodedata
from typing import Final

MAX_ID_LENGTH = 128

INVISIBLE: Final = (
    # Default_Ignorable_Code_Point in DerivedCoreProperties.txt of Unicode 14 to 16.
    (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
    # No property says so, but their glyphs are blank: a braille pattern, a note's head, a filler, hieroglyphs' blanks.
    (0x2800, 0x2800), (0x1D159, 0x1D159), (0x16FE4, 0x16FE4), (0x13441, 0x13442),
)  # fmt: skip


def why_no_id(text: str) -> str | None:
    """Why a text is no client id, as an end of a sentence; None where it is one."""
    if not (0 < len(text) <= MAX_ID_LENGTH and text.isprintable() and text == text.strip()):
        return f"an integer or 1 to {MAX_ID_LENGTH} printable characters"
    if unseen := next((char for char in text if _invisible(char)), None):
        return f"{_named(unseen)} cannot be seen"
    if (normal := unicodedata.normalize("NFKC", text)) != text:
        return f"it passes for {normal!a}, its normal form (NFKC)"
    before = ""
    for char in text:
        if unicodedata.category(char).startswith("M"):
            # A mark belongs to a letter: on a digit, or on nothing, it hardly shows.
            if not before.startswith("L"):
                return f"the mark {_named(char)} stands on no letter"
        else:
            before = unicodedata.category(char)
    return None


def _invisible(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in INVISIBLE)


def _named(char: str) -> str:
    return f"U+{ord(char):04X} ({unicodedata.name(char, 'without a name')})"
