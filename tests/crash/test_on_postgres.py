"""Promises 2, 3 and 6 where the record is PostgreSQL's and a server stands by: six points here, sixty in
``ops/crash-sweep --db postgres``."""

from typing import get_args

import pytest

from tests.crash.command import run
from tests.crash.scene import Victim
from tests.patience import PATIENCE


@pytest.mark.postgres
def test_whoever_is_cut_off_on_postgresql_the_run_goes_on_and_a_forgetful_server_is_found_out() -> None:
    code, figures, wrong = run("6", "--db", "postgres", "--jobs", "2", "--within", str(PATIENCE))
    assert (code, wrong) == (0, "")
    assert set(figures["faults"]) == set(get_args(Victim))
    assert sum(figures["faults"].values()) == sum(figures["ended_by"].values()) == 6
    assert figures["taken_over"] == figures["faults"]["server"] == 2
    assert figures["said"]["server"]["commit"] > 10
    assert figures["said"]["successor"]["commit"] > 3
    assert "the server ended by itself with 1" in figures["teeth"]["batch_not_looked_up"]
    assert "went on with a run that another one had taken" in figures["teeth"]["epoch_not_checked"]
