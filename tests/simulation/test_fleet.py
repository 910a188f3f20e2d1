"""A fleet as its parts tell of it: rounds, what it came to, and a part that is gone."""

import queue
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from flserver.simulation.fleet import Fleet, Round
from flserver.simulation.parts import FleetError, Line


class Played:
    """A part that says what it is given, until it is told to end."""

    def __init__(self, *lines: Mapping[str, Any], gone: str = "", stays: bool = False) -> None:
        self._lines, self._gone, self._stays = lines, gone, stays
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.did: list[str] = []

    def lines(self) -> Iterator[Line]:
        yield from self._lines
        if self._gone:
            raise FleetError(self._gone)
        if self._stays:
            self._told.get()

    def tell_to_end(self) -> None:
        self.did.append("told")
        self._told.put(None)

    def end(self) -> None:
        self.did.append("ended")

    def close(self) -> None:
        self.did.append("closed")


def began(round: int, at: float, updates: int) -> Mapping[str, Any]:
    return {"began": round, "at": at, "updates": updates, "received": 100 * updates, "sent": 10 * updates}


def over(run: str, done: Mapping[str, Mapping[str, int]], *notes: str) -> Mapping[str, Any]:
    return {"run": run, "done": done, "notes": Counter(notes), "at": 9.0, "updates": 9, "received": 9, "sent": 9}


def test_rounds_are_of_all_parts_and_so_is_what_it_came_to() -> None:
    parts = [
        Played(began(1, 1.0, 0), began(2, 2.0, 3), began(3, 4.0, 6), over("r", {"1": {"accepted": 2}}, "odd")),
        Played(began(1, 1.5, 0), began(2, 3.0, 2), began(3, 3.5, 4), over("", {"2": {"accepted": 1}}, "odd", "odd")),
    ]
    fleet = Fleet(parts)
    *rounds, outcome = fleet.follow()
    fleet.close()
    assert rounds == [Round(1, 1.5, 5, 550), Round(2, 1.0, 5, 550)]
    assert not isinstance(outcome, Round)
    assert outcome.rounds == rounds
    assert (outcome.run, outcome.done) == ("r", {"1": Counter(accepted=2), "2": Counter(accepted=1)})
    assert outcome.notes == Counter(odd=3)


def test_a_part_that_is_gone_ends_the_others() -> None:
    parts = [Played(began(1, 1.0, 0), stays=True), Played(began(1, 1.0, 0), gone="part 2 is gone")]
    fleet = Fleet(parts)
    with pytest.raises(FleetError, match="part 2 is gone"):
        list(fleet.follow())
    fleet.close()
    assert [part.did for part in parts] == [["told", "ended", "closed"]] * 2
