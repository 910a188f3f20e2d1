"""Who does something, and why, in their own words."""

import os
from pathlib import Path

import pytest

from flserver.settings.operator import Note, Operator, system_user


def test_what_is_typed_is_printable_and_bounded() -> None:
    said = Operator.of("Ada\n\x1b[1m" + "a" * 500, "why\u202e" + "b" * 5000)
    assert said.actor is not None
    assert said.reason is not None
    assert said.actor.isprintable()
    assert said.reason.isprintable()
    assert len(said.actor) < 120
    assert len(said.reason) < 1020
    assert Operator.of(None, "") == Operator.of("", None) == Operator(actor=system_user(), reason=None)


@pytest.fixture
def roster(tmp_path: Path) -> Path:
    return tmp_path / "roster.csv"


def write(roster: Path, text: str) -> None:
    roster.with_name("roster.csv.reason").write_text(text)


def test_a_file_says_why_once(roster: Path) -> None:
    write(roster, "long ago")
    note, sender = Note(roster), Operator(actor="root")
    assert sender.said_in(note) == sender
    write(roster, "a new\nroster")
    assert sender.said_in(note) == Operator(actor="root", reason="a new roster")
    assert sender.said_in(note) == sender
    write(roster, "actor: Ada\nit is hers")
    assert sender.said_in(note) == Operator(actor="Ada", reason="it is hers")
    write(roster, "actor: Grace")
    assert Operator(actor=None).said_in(note) == Operator(actor="Grace")


def test_what_is_no_file_says_nothing(roster: Path, tmp_path: Path) -> None:
    note, file = Note(roster), roster.with_name("roster.csv.reason")
    (tmp_path / "elsewhere").write_text("a secret of somebody else")
    file.symlink_to(tmp_path / "elsewhere")
    assert note.take() == ""
    file.unlink()
    os.mkfifo(file)
    assert note.take() == ""
    file.unlink()
    assert note.take() == ""
