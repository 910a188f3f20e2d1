"""Promises 2, 3 and 6 where nodes serve the trainers: six points here, 200 in ``ops/crash-sweep --ingest``."""

import pytest

from flserver.ingest.batches import Item, to_bytes
from flserver.ingest.told import Accepted, Ended
from tests.crash.command import run, why_not
from tests.crash.said import Counted, Word


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_whoever_is_killed_the_run_goes_on_and_a_server_that_forgets_a_node_is_found_out() -> None:
    code, figures, wrong = run("6", "--ingest", "--jobs", "2", "--seed", "14")
    assert (code, wrong) == (0, "")
    assert sum(figures["kills"].values()) + figures["not_reached"] == 6
    assert figures["not_reached"] <= 1
    assert set(figures["kills"]) == {"node", "server"}
    assert figures["resumed"] == figures["kills"]["server"]
    assert figures["said"]["Confirmed hearing"] >= 16
    for tooth in ("loss_not_noticed", "kept_not_added"):
        assert "are not those of the uninterrupted run" in figures["teeth"][tooth]


def test_a_word_is_found_by_its_kind_and_number_and_struck_at_its_moment() -> None:
    struck: list[str] = []
    counted = Counted(Word("node", "Ended", "after saying", 2), lambda: struck.append("now"))
    heard = to_bytes([Item(Ended(1)), Item(Ended(2))])
    assert not counted.is_at(heard, saying=False)
    assert not counted.is_at(to_bytes([Item(Accepted(1)), Item(Ended(1))]), saying=True)
    at = counted.is_at(to_bytes([Item(Ended(2))]), saying=True)
    counted.strike_if(at, "before")
    assert struck == []
    counted.strike_if(at, "after")
    assert struck == ["now"]
