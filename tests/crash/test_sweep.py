"""Promises 2, 3 and 6 at every step: sixty points here, all of them in ``ops/crash-sweep``."""

import pytest

from tests.crash.command import run, why_not
from tests.crash.process import Point
from tests.crash.sweep import Loss, spread


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_server_that_is_cut_off_anywhere_goes_on_and_one_that_breaks_a_promise_is_found_out() -> None:
    code, figures, wrong = run("60", "--jobs", "2")
    assert (code, wrong) == (0, "")
    assert figures["kills"] + figures["power_losses"] + figures["not_reached"] == 60
    assert figures["not_reached"] <= 2
    assert set(figures["operations"]) >= {"write", "fsync", "rename", "unlink", "truncate", "commit"}
    assert sum(figures["operations"].values()) > 400
    lost = {name for name, found in figures["teeth"].items() if "is committed without its checkpoint" in found}
    assert lost == {"row_before_file", "rename_after_row", "file_never_synced", "folder_never_synced"}
    assert "and the record does not say so" in figures["teeth"]["answer_before_row"]


def test_points_are_spread_over_all_kinds_and_none_comes_twice() -> None:
    points = {kind: [Point(kind, k + 1) for k in range(count)] for kind, count in (("write", 500), ("unlink", 2))}
    some = spread(points, 12)
    assert len(set(some)) == 12
    assert [point.number for point in some if point.kind == "unlink"] == [1, 2]
    writes = [point.number for point in some if point.kind == "write"]
    assert writes == sorted(writes)
    assert (min(writes), max(writes)) == (26, 476)
    assert set(spread({"all": [Loss(k) for k in range(5)]}, 99)) == {Loss(k) for k in range(5)}
