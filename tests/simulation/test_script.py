"""The script of a fleet: the same seed gives the same one, with the shares that were asked for, and lines hold it."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import UsageError
from flserver.simulation import script
from flserver.simulation.outcome import totals
from flserver.simulation.script import LIES, DropOut, Member, Shares, expected, from_text, make, part_of, to_text

share = st.floats(0, 1)
shares_asked = st.builds(Shares, drop_out=share, lag=share, lie=share)
fleets = st.tuples(st.integers(1, 80), st.integers(1, 12), st.integers(0, 2**40), shares_asked)


@given(fleets)
def test_the_same_seed_gives_the_same_script_and_each_share_is_as_asked(fleet: tuple[int, int, int, Shares]) -> None:
    trainers, rounds, _, shares = fleet
    members = make(*fleet)
    assert members == make(*fleet)
    assert [member.id for member in members] == [str(number) for number in range(1, trainers + 1)]
    leaving = [member.drop_out for member in members if member.drop_out is not None]
    assert len(leaving) == round(shares.drop_out * trainers)
    assert all(1 <= out.round <= rounds and out.back in (None, 1, 2, 3) for out in leaving)
    assert sum(member.lie is not None for member in members) == round(shares.lie * trainers)
    lagging = [member.lag for member in members if member.lag]
    assert all(0 < lag <= shares.lag_seconds for lag in lagging)
    assert abs(len(lagging) - round(shares.lag * trainers)) <= trainers * 0.02 + 1  # one may lag for no millisecond


def test_another_seed_gives_another_script() -> None:
    shares = Shares(drop_out=0.2, lag=0.2, lie=0.2)
    one, other = make(60, 5, 1, shares), make(60, 5, 2, shares)
    for trait in ("drop_out", "lag", "lie", "samples", "seed"):
        assert [getattr(member, trait) for member in one] != [getattr(member, trait) for member in other], trait


def test_a_script_is_the_same_on_every_machine() -> None:
    """Written down once: whoever has this script elsewhere plays the same one."""
    assert to_text(make(4, 5, 7, Shares(drop_out=0.5, lag=0.25, lie=0.25))).splitlines() == WRITTEN


WRITTEN = [
    '{"id": "1", "samples": 81, "seed": 128363581818832, "lag": 0.451, '
    '"drop_out": {"round": 2, "when": "before", "back": 3}}',
    '{"id": "2", "samples": 188, "seed": 60110676516695}',
    '{"id": "3", "samples": 382, "seed": 43952863496771, "lie": "nan"}',
    '{"id": "4", "samples": 430, "seed": 146351574336675, "drop_out": {"round": 4, "when": "during", "back": null}}',
]


def test_a_few_of_a_kind_are_of_all_kinds() -> None:
    members = make(60, 5, 0, Shares(drop_out=0.2, lie=0.2))
    assert {member.lie for member in members} == {None, *LIES}
    found = {(out.when, out.back is None) for member in members if (out := member.drop_out) is not None}
    assert found == {(when, for_ever) for when in ("before", "during") for for_ever in (False, True)}


@given(fleets)
def test_lines_hold_a_script_and_parts_of_it_are_all_of_it(fleet: tuple[int, int, int, Shares]) -> None:
    members = make(*fleet)
    assert from_text(to_text(members), "it") == members
    parts = [part_of(members, number, 3) for number in (1, 2, 3)]
    assert sorted((one for part in parts for one in part), key=lambda one: int(one.id)) == members
    whole = totals(expected(members, fleet[1]))
    assert sum((totals(expected(part, fleet[1])) for part in parts), Counter()) == whole


LINE = {"id": "a", "samples": 3, "seed": 1}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Expecting"),
        ("[]", "script"),
        (json.dumps(LINE | {"id": 3}), "id 3 is no text"),
        (json.dumps({"id": "a", "seed": 1}), "'samples' is missing"),
        (json.dumps(LINE | {"samples": 0}), "samples 0 is no whole number from 1 on"),
        (json.dumps(LINE | {"samples": 1.5}), "samples 1.5 is no whole number"),
        (json.dumps(LINE | {"lies": "nan"}), "there is no lies"),
        (json.dumps(LINE | {"lie": "white"}), "lie 'white' is none of nan, huge"),
        (json.dumps(LINE | {"lag": -1}), "lag -1.0 is no number of seconds"),
        (json.dumps(LINE | {"drop_out": {"round": 1, "when": "after"}}), "when 'after' is neither before nor during"),
        (json.dumps(LINE | {"drop_out": {"round": 0, "when": "before"}}), "round 0 is no whole number from 1 on"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_number_and_what_is_wrong(line: str, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        from_text(f"{json.dumps(LINE | {'id': 'b'})}\n{line}\n", "fleet.jsonl")
    assert str(refused.value).startswith("fleet.jsonl, line 2: not a trainer of a script: ")
    assert why in str(refused.value)


def test_one_id_twice_and_no_trainer_are_no_script() -> None:
    with pytest.raises(UsageError, match="line 2: there is a trainer 'a' above"):
        from_text(2 * f"{json.dumps(LINE)}\n", "fleet.jsonl")
    with pytest.raises(UsageError, match=r"fleet\.jsonl has no trainers"):
        from_text("", "fleet.jsonl")


def member(**what: object) -> Member:
    return Member(id="a", samples=1, seed=1, **what)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "comes"),
    [
        (member(), {"accepted": 5}),
        (member(lag=3.0), {"accepted": 5}),
        (member(lie="nan"), {"rejected non_finite": 5}),
        (member(lie="huge"), {"rejected norm": 5}),
        (member(lie="shape"), {"rejected shape": 5}),
        (member(lie="duplicate"), {"accepted": 5, "duplicate": 5}),
        (member(lie="stale"), {"accepted": 5}),
        (member(lie="samples"), {"refused": 1}),
        (member(drop_out=DropOut(round=2, when="before")), {"accepted": 1, "dropped": 1}),
        (member(drop_out=DropOut(round=2, when="during", back=1)), {"accepted": 4, "dropped": 1, "came back": 1}),
        (member(drop_out=DropOut(round=2, when="before", back=3)), {"accepted": 2, "dropped": 1, "came back": 1}),
        (member(drop_out=DropOut(round=5, when="before", back=1)), {"accepted": 4, "dropped": 1, "came back": 1}),
        (member(drop_out=DropOut(round=5, when="before", back=2)), {"accepted": 4, "dropped": 1}),
        (member(drop_out=DropOut(round=9, when="before", back=1)), {"accepted": 5}),
        (member(lie="samples", drop_out=DropOut(round=2, when="before", back=1)), {"refused": 1}),
    ],
)
def test_what_is_to_come_of_each_in_five_rounds(one: Member, comes: dict[str, int]) -> None:
    assert expected([one], 5) == {"a": comes}


def test_what_is_drawn_is_below_one_and_spread_evenly() -> None:
    drawn = [script.draw("seed", number) for number in range(2000)]
    assert all(0 <= one < 1 for one in drawn)
    assert all(150 < sum(low / 10 <= one < (low + 1) / 10 for one in drawn) < 250 for low in range(10))
