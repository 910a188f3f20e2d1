"""What the rules' file says at its top is what the table in the code does."""

import re

import pytest

from flserver.rounds import Participant, rules
from flserver.rounds.seats import MOVES


def test_the_table_of_standings_is_the_codes() -> None:
    assert rules.__doc__ is not None
    rows = re.findall(r"^    (\w+)  +(\S.*?\S)  +(\w+)$", rules.__doc__, re.MULTILINE)
    assert set(rows) == {(before, move, after) for before, moves in MOVES.items() for move, after in moves.items()}
    assert len(rows) == len(set(rows))


def test_a_move_that_is_not_in_the_table_is_a_defect() -> None:
    for standing, moves in MOVES.items():
        for move in {move for others in MOVES.values() for move in others} - moves.keys():
            participant = Participant("1", 10, 1, standing=standing)
            with pytest.raises(ValueError, match=f"client 1, {standing}: {move}"):
                participant.move(move)
