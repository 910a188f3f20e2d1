"""Client ids are texts that people can tell apart: each class of characters that look like another, or like nothing."""

import sys
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flserver.errors import MessageRefused
from flserver.wire.ids import INVISIBLE, MAX_ID_LENGTH, why_no_id
from flserver.wire.messages import read_client_id
from tests.examples import times

PLAIN = st.text(st.sampled_from("0123456789abcXYZ-_.:"), min_size=1, max_size=12)
SEEN = (
    "1",
    "03",
    "-7",
    "site-2",
    "Lund, ward 3",
    "Umeå",
    "Zoë",
    "Ольга",
    "北京",
    "서울",
    "日本語",
    "ทีม",
    "टीम",
    "١",
    "g̃ua",
    "1:2",
)


@pytest.mark.parametrize("text", SEEN)
def test_ids_as_people_write_them(text: str) -> None:
    assert read_client_id(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\uff11", "it passes for '1', its normal form (NFKC)"),
        ("Zoe\u0308", "it passes for 'Zo\\xeb', its normal form (NFKC)"),
        ("\u2460", "it passes for '1'"),
        ("1\u200b", "printable characters"),
        ("1\u034f", "U+034F (COMBINING GRAPHEME JOINER) cannot be seen"),
        ("1\ufe0f", "U+FE0F (VARIATION SELECTOR-16) cannot be seen"),
        ("\u3164", "U+3164 (HANGUL FILLER) cannot be seen"),
        ("\u2800", "U+2800 (BRAILLE PATTERN BLANK) cannot be seen"),
        ("\U000e0131", "printable characters|cannot be seen"),
        ("1\u0301", "the mark U+0301 (COMBINING ACUTE ACCENT) stands on no letter"),
        ("\u0301", "the mark U+0301"),
        ("\u0301\u0323", "printable|mark|passes for"),
        ("a-\u0332", "the mark U+0332"),
        ("1\u20e3", "the mark U+20E3"),
        ("\u0000", "printable characters"),
        ("\u00a0", "printable characters"),
        ("1\u3000", "printable characters"),
        (" 1", "printable characters"),
        ("", "printable characters"),
        ("x" * (MAX_ID_LENGTH + 1), "1 to 128 printable characters"),
    ],
)
def test_what_looks_like_another_or_like_nothing_is_none_and_the_reason_says_why(text: str, why: str) -> None:
    with pytest.raises(MessageRefused) as caught:
        read_client_id(text)
    assert " is not a client id: " in str(caught.value)
    assert any(part in str(caught.value) for part in why.split("|"))
    assert str(caught.value).isascii(), "what cannot be seen is escaped"


@times(2)
@given(st.text(max_size=8))
def test_ids_are_their_own_normal_form_so_two_that_look_alike_by_it_are_one(text: str) -> None:
    if why_no_id(text) is None:
        for form in ("NFC", "NFKC"):
            assert unicodedata.normalize(form, text) == text
        assert any(unicodedata.category(char)[0] not in "MZC" for char in text), "something can be seen"
    normal = unicodedata.normalize("NFKC", text)
    assume(normal != text)
    assert why_no_id(text) is not None


@times(2)
@given(PLAIN, st.sampled_from(INVISIBLE), st.data())
def test_nothing_that_cannot_be_seen_is_in_one(plain: str, unseen: tuple[int, int], data: st.DataObject) -> None:
    char = chr(data.draw(st.integers(*unseen)))
    at = data.draw(st.integers(0, len(plain)))
    assert why_no_id(plain) is None
    assert why_no_id(plain[:at] + char + plain[at:]) is not None
    assert why_no_id(char) is not None


@times(2)
@given(PLAIN, st.characters(categories=["Mn", "Mc", "Me"]), st.data())
def test_a_mark_beside_a_digit_or_alone_makes_no_other_id(plain: str, mark: str, data: st.DataObject) -> None:
    digit = data.draw(st.sampled_from("0123456789"))
    assert why_no_id(mark) is not None
    assert why_no_id(mark * 3) is not None
    assert why_no_id(plain + digit + mark) is not None


@times(2)
@given(
    PLAIN,
    st.characters(categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"]) | st.sampled_from("\u00a0\u1680\u2003\u3000"),
)
def test_no_control_format_private_or_blank_character_is_in_one(plain: str, char: str) -> None:
    for text in (char, plain + char, char + plain, plain + char + plain):
        assert why_no_id(text) is not None


@pytest.mark.parametrize("name", ["FULLWIDTH DIGIT", "MATHEMATICAL BOLD DIGIT", "SUPERSCRIPT", "CIRCLED DIGIT"])
def test_every_digit_in_another_dress_is_refused(name: str) -> None:
    words = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
    for word in words:
        assert "passes for" in (why_no_id(unicodedata.lookup(f"{name} {word}")) or "")


def test_the_table_is_in_order_and_holds_every_filler_that_is_not_drawn() -> None:
    ranges = [*INVISIBLE[:-4]]
    assert ranges == sorted(ranges)
    assert all(first <= last <= sys.maxunicode for first, last in INVISIBLE)
    names = {chr(code): unicodedata.name(chr(code), "") for code in range(0x20, 0x30000)}
    fillers = [char for char, name in names.items() if "FILLER" in name and "GAP" not in name and "LINE" not in name]
    assert len(fillers) >= 5
    assert [names[char] for char in fillers if why_no_id(char) is None] == []


@times(0.5)
@given(st.integers(-(2**63), 2**63 - 1))
def test_a_number_and_its_text_are_one_client(number: int) -> None:
    assert read_client_id(number) == read_client_id(str(number)) == str(number)
