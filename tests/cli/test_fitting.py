"""A table is as wide as the terminal, with every column in it and every number whole."""

from collections.abc import Sequence
from datetime import UTC, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rich.cells import cell_len

from flserver.cli.fitting import Column, column, fitted, shortened
from flserver.cli.tables import screen_lines

DIGEST = "sha256:" + "0123456789abcdef" * 4
ROW = (12, 1, "committed", 0.335123, 3, 3, 1438, 0.1363, 0.9582, DIGEST, None)
HEADS = (
    *("round", "attempt", "status", "seconds", "clients", "updates_accepted", "data_size"),
    *("loss", "accuracy", "model_digest", "reason"),
)


@pytest.mark.parametrize(
    ("text", "cells", "middle", "short"),
    [
        ("round 12", 8, False, "round 12"),
        ("round 12", 7, False, "round …"),
        (DIGEST, 13, True, "sha256…abcdef"),
        (DIGEST, 12, True, "sha256…bcdef"),
        ("日本語の病院", 7, False, "日本語…"),
        ("日本語の病院", 6, False, "日本…"),
        ("日本語の病院", 6, True, "日…院"),
        ("abc", 1, True, "…"),
        ("abc", 0, True, ""),
        ("", 3, False, ""),
    ],
)
def test_what_is_shortened_shows_it_and_takes_no_more_cells(text: str, cells: int, middle: bool, short: str) -> None:
    assert shortened(text, cells, middle=middle) == short
    assert cell_len(short) <= max(cells, cell_len(text) if short == text else cells)


@pytest.mark.parametrize("width", [200, 80, 60, 40, 20, 13])
def test_every_column_is_there_at_every_width_and_every_number_is_whole(width: int) -> None:
    lines = screen_lines(HEADS, [ROW], width)
    assert max(map(cell_len, lines)) <= width
    said = " ".join(lines)
    for number in ("12", "0.3351", "1438", "0.1363", "0.9582"):
        assert number in said.split(), number
    heads = "".join(part.strip() for line in lines for part in line.split())
    for head in HEADS:
        assert all(word in heads for word in head.split("_")), head


def test_where_there_is_room_nothing_is_shortened() -> None:
    (head, _, row) = screen_lines(HEADS, [ROW], 300)
    assert head.split() == [*HEADS]
    assert DIGEST in row


def test_eighty_cells_hold_what_was_measured_in_one_block() -> None:
    lines = screen_lines(HEADS, [ROW] * 3, 80)
    blocks = "\n".join(lines).split("\n\n")
    assert len(blocks) == 3
    assert blocks[2] == "empty: reason", "a column without a value takes no place"
    assert "0.9582" in blocks[0]
    assert blocks[1].split()[0] in ("round", "model_"), "the first column is repeated, and tells which row it is"
    assert blocks[1].splitlines()[-1].split()[0] == "12"


def test_an_empty_column_stands_where_there_is_room_for_it_and_else_its_name_alone() -> None:
    heads = ["round", "reason", "model_digest", "note", "seconds"]
    rows = [(1, None, DIGEST, "", 0.5), (2, None, DIGEST, "", 1.5)]
    assert screen_lines(heads, rows, 200)[0].split() == heads
    lines = screen_lines(heads, rows, 28)
    assert lines[-2:] == ["", "empty: reason, note"]
    assert "reason" not in " ".join(lines[:-2])
    assert lines[-3].split()[0] == "2"
    without_rows = screen_lines(heads, [], 28)
    assert all(head in " ".join(without_rows) for head in ("reason", "note")), "nothing is empty where nothing is"
    assert "empty:" not in " ".join(without_rows)


def test_of_columns_with_one_name_those_with_values_stand() -> None:
    rows = [(DIGEST, None, "its norm"), (DIGEST, None, "its shape")]
    lines = screen_lines(["model_digest", "reason", "reason"], rows, 20)
    assert {"its norm", "its shape"} <= {line.split("  ")[-1] for line in lines}
    assert lines[-1] == "empty: reason"
    first = [(None, None, DIGEST, 1.5), (None, None, DIGEST, 2.5)]
    shown = screen_lines(["reason", "reason", "model_digest", "seconds"], first, 20)
    assert shown[0].split()[0] == "reason", "the first column tells rows apart, and stays"


def test_names_of_empty_columns_take_no_more_cells() -> None:
    heads = ["round", *(f"日本語の病院_{number}" for number in range(5)), "model_digest", "seconds"]
    for width in (20, 28, 40):
        lines = screen_lines(heads, [(1, *[None] * 5, DIGEST, 0.5)], width)
        assert max(map(cell_len, lines)) <= width


def test_ids_are_shortened_in_the_middle_and_text_at_its_end() -> None:
    *_, row = screen_lines(
        ["client_id", "reason"], [("hospital-lund-ward-12", "the norm is 1000 times the largest")], 36
    )
    assert row.startswith("hospit")
    assert "…" in row.split()[0]
    assert row.split()[0].endswith("12")
    assert row.endswith("…")


@pytest.mark.parametrize(
    "name", ["日本語の病院の名前がとても長い", "בית חולים הדסה עין כרם ירושלים", "x\x1b[2J\u202e\n" * 9, "e\u0301" * 40]
)
def test_wide_and_backward_and_control_characters_keep_the_columns_in_line(name: str) -> None:
    lines = screen_lines(["who", "n"], [(name, 1), ("short", 23456)], 30)
    assert max(map(cell_len, lines)) <= 30
    assert {cell_len(line) for line in lines[2:]} == {cell_len(lines[1])}, "numbers end at the same cell"
    assert all(char.isprintable() or char == "\u200e" for line in lines for char in line)


def test_what_is_written_from_right_to_left_ends_before_the_next_column() -> None:
    *_, row = screen_lines(["who", "n"], [("הדסה", 1)], 30)
    assert row.index("\u200e") == 4


def times(head: str, values: Sequence[Any], zone: Any) -> Column:
    return column(head, values, [str(value) for value in values], zone)


def test_times_are_the_readers_and_the_head_names_the_zone() -> None:
    at = ["2026-01-31T09:00:00.250000Z", None, "2026-01-31T23:30:00.000000Z"]
    told = times("at", at, ZoneInfo("Europe/Stockholm"))
    assert (told.head, told.cells) == ("at (CET)", ("2026-01-31 10:00:00", "", "2026-02-01 00:30:00"))
    assert times("at", at, UTC).head == "at (UTC)"
    assert times("at", at, timezone(timedelta(hours=5, minutes=30))).head == "at (UTC+05:30)"


def test_where_the_zone_changes_each_time_names_its_own() -> None:
    told = times("at", ["2026-03-29T00:59:59.000000Z", "2026-03-29T01:00:00.000000Z"], ZoneInfo("Europe/Stockholm"))
    assert (told.head, told.cells) == ("at", ("2026-03-29 01:59:59 CET", "2026-03-29 03:00:00 CEST"))


def test_a_time_stands_whole() -> None:
    at = "2026-01-31T09:00:00.250000Z"
    lines = screen_lines(["run_id", "name", "at"], [(DIGEST, "a name that is rather long for this", at)], 40)
    assert max(map(cell_len, lines)) <= 40
    assert "…" not in lines[-1].split("  ")[-1]


def test_text_among_times_leaves_them_as_they_are() -> None:
    assert times("at", ["2026-01-31T09:00:00.250000Z", "never"], UTC).head == "at"


def test_no_rows_and_no_columns() -> None:
    assert fitted([column("run_id", [], [])], 80) == ["run_id", "------"]
    assert screen_lines([], [], 80) == []
