"""What is said where trainers, or the record, are not as scripted."""

from collections import Counter

from flserver.simulation.outcome import Comparison


def compared(done: dict[str, Counter[str]], recorded: dict[str, Counter[str]] | None) -> Comparison:
    scripted = {"1": Counter(accepted=5), "2": Counter({"rejected norm": 5})}
    return Comparison(scripted=scripted, done=done, recorded=recorded)


AS_SCRIPTED = {"1": Counter(accepted=5), "2": Counter({"rejected norm": 5})}


def test_nothing_is_said_where_all_is_as_scripted() -> None:
    assert list(compared(AS_SCRIPTED, AS_SCRIPTED).differences()) == []
    assert list(compared(AS_SCRIPTED, None).differences()) == []
    assert compared(AS_SCRIPTED, None).rows == [("accepted", 5, 5, None), ("rejected norm", 5, 5, None)]


def test_whose_is_not_as_scripted_is_named() -> None:
    record = {"1": Counter(accepted=4, late=1), "2": Counter({"rejected norm": 5})}
    found = compared(AS_SCRIPTED, record)
    assert found.rows == [("accepted", 5, 5, 4), ("rejected norm", 5, 5, 5), ("late", 0, 0, 1)]
    assert list(found.differences()) == [
        "accepted: the record has 4 of 5 scripted; not as scripted: 1 trainer (1)",
        "late: the record has 1 of 0 scripted; not as scripted: 1 trainer (1)",
    ]


def test_two_that_differ_in_opposite_ways_are_seen() -> None:
    swapped = {"1": Counter({"rejected norm": 5}), "2": Counter(accepted=5)}
    assert list(compared(swapped, None).differences()) == [
        "accepted: the trainers did 5 of 5 scripted; not as scripted: 2 trainers (1, 2)",
        "rejected norm: the trainers did 5 of 5 scripted; not as scripted: 2 trainers (1, 2)",
    ]
