"""Under which name ``--resume`` starts a run where none of that name is on record, and which is a slip."""

from typing import Any

import pytest

from flserver.errors import UsageError
from tests.process.runs import decide, found, is_new, planned


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("name", ["nigt", "inght", "Night", "nights", "nights2", "night2", "night-1"])
def test_a_name_within_two_letters_of_an_existing_one_is_a_slip(name: str, typed: bool) -> None:
    with pytest.raises(UsageError, match="did you mean 'night'") as caught:
        decide(found("completed", "night"), found("failed", "day"), typed=typed, resume=True, run_name=name)
    assert str(caught.value).startswith(f"--run-name {name}: runs.sqlite has no run of that name")
    assert "Leave --resume out" in str(caught.value)
    assert is_new(planned(found("completed", "night"), typed=typed, run_name=name)), "without --resume it is meant"


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(
    ("name", "earlier"), [("fedavg2", "fedavg"), ("fedavg", "fedavg2"), ("night-", "night-1"), ("1-a2", "1-a")]
)
def test_a_number_more_or_less_is_a_slip(name: str, earlier: str, typed: bool) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{earlier}'"):
        decide(found("completed", earlier), typed=typed, resume=True, run_name=name)


@pytest.mark.parametrize(
    ("name", "earlier"), [("night-2", "night-1"), ("night-10", "night-9"), ("2026-12", "2026-11"), ("2a10", "1a9")]
)
def test_a_name_that_is_another_but_for_its_numbers_is_a_new_runs_in_a_unit_and_a_slip_where_it_is_typed(
    name: str, earlier: str
) -> None:
    runs = [found("completed", earlier), found("failed", f"{name}x")]
    plan = planned(*runs, resume=True, run_name=name)
    assert is_new(plan)
    assert plan.name == name
    with pytest.raises(UsageError, match="did you mean"):
        decide(*runs, typed=True, resume=True, run_name=name)


def test_in_a_unit_a_slip_says_what_a_unit_can_do() -> None:
    with pytest.raises(UsageError, match="in a unit, name it less like that one, or numbered or dated as that one is"):
        decide(found("completed", "night-1"), resume=True, run_name="nihgt-1")
    with pytest.raises(UsageError) as caught:
        decide(found("completed", "night-1"), typed=True, resume=True, run_name="nihgt-1")
    assert "in a unit" not in str(caught.value)


def test_a_name_that_is_like_none_is_refused_where_it_is_typed_and_starts_a_run_in_a_unit() -> None:
    runs = [found("completed", name) for name in ("first", "first", "second")]
    with pytest.raises(UsageError, match=r"the newest are second, first\. Leave --resume out"):
        decide(*runs, typed=True, resume=True, run_name="third-run")
    assert is_new(planned(*runs, resume=True, run_name="third-run"))


def test_where_there_is_no_run_at_all_a_name_starts_one_in_a_unit_and_is_refused_where_it_is_typed() -> None:
    assert planned(resume=True, run_name="night").name == "night"
    with pytest.raises(UsageError, match="has no run of that name to go on with, for there is no run in it: is --db"):
        decide(typed=True, resume=True, run_name="night")
    assert is_new(planned(typed=True, resume=True)), "no name, no slip"


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("runs", [(), (found("completed", "day"),)])
def test_what_looks_like_a_run_id_is_no_name_to_start_one_under(typed: bool, runs: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError, match="no name but the id of one: is --db the record it is in"):
        decide(*runs, typed=typed, resume=True, run_name="20261126T160251Z-255e54")


def test_a_run_id_is_no_name_in_a_unit_either_where_another_differs_in_digits_alone() -> None:
    with pytest.raises(UsageError, match="no name but the id of one"):
        decide(found("completed", "20261126T160251Z-255e54"), resume=True, run_name="20261126T160251Z-255e53")


@pytest.mark.parametrize("name", ["a:b", "123", "٣", "", "  ", "a\x1b[2J", "a\nb"])
@pytest.mark.parametrize("resume", [True, False])
def test_names_that_could_be_taken_for_something_else(name: str, resume: bool) -> None:
    with pytest.raises(UsageError, match="--run-name"):
        decide(found("interrupted"), run_name=name, resume=resume)
