"""Text from outside, made printable."""

from flserver.text import printable


def test_printable() -> None:
    assert printable("Zürich 東京 3") == "Zürich 東京 3"
    assert printable("a\x1b\r\n\x7f\x85\u2028\u202e\ud800") == "a\\x1b\\r\\n\\x7f\\x85\\u2028\\u202e\\ud800"
    assert printable("x" * 201) == "x" * 199 + "…"
    assert printable("x" * 200) == "x" * 200
