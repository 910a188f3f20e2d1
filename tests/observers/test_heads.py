"""``/checkpoint`` gives the newest head and its proof, to each who asks only so often."""

from http import HTTPStatus
from itertools import repeat

import pytest

from flserver import events as e
from flserver.observers import heads
from flserver.observers.heads import BURST, MOST_ADDRESSES, PER_SECOND, Allowance, CheckpointPage
from tests import facts

NOTE = "log\n40\nqg==\n\n— log YWJjZGU=\n"


def proven(since: int, head: e.HeadSigned) -> str:
    return f"old {since}\n\n{head.note}"


@pytest.fixture
def page() -> CheckpointPage:
    return CheckpointPage(proven)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(heads, "monotonic", lambda: now[0])
    return now


def test_the_newest_head_is_given_and_a_proof_where_one_is_asked_for(page: CheckpointPage) -> None:
    status, body = page.answer("", "192.0.2.1")
    assert status == HTTPStatus.NOT_FOUND
    assert b"--sign-key" in body
    page.observe(facts.head_signed(size=12, note="older"))
    page.observe(facts.state_changed())
    page.observe(facts.head_signed(size=40, note=NOTE))
    assert page.answer("", "192.0.2.1") == (HTTPStatus.OK, NOTE.encode())
    for since in (0, 12, 40):
        assert page.answer(f"since={since}", "a") == (HTTPStatus.OK, f"old {since}\n\n{NOTE}".encode())
    assert page.answer("since=41", "a") == (HTTPStatus.CONFLICT, NOTE.encode()), "whoever asks has seen more"


@pytest.mark.parametrize(
    "query", ["since=", "since=-1", "since=1e3", "since=007", "since=1&x=2", "x", "since=" + "9" * 40]
)
def test_what_is_no_size_is_refused(page: CheckpointPage, query: str) -> None:
    page.observe(facts.head_signed(size=40, note=NOTE))
    assert page.answer(query, "a")[0] == HTTPStatus.BAD_REQUEST


def test_who_asks_too_often_waits_and_nobody_else_does(page: CheckpointPage, clock: list[float]) -> None:
    page = CheckpointPage(proven)
    page.observe(facts.head_signed(size=40, note=NOTE))
    answers = [page.answer("", "a")[0] for _ in range(BURST + 1)]
    assert answers == [*repeat(HTTPStatus.OK, BURST), HTTPStatus.TOO_MANY_REQUESTS]
    assert page.answer("", "b")[0] == HTTPStatus.OK
    clock[0] += 1 / PER_SECOND
    assert [page.answer("", "a")[0] for _ in range(2)] == [HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS]


def test_many_addresses_together_are_held_too_and_not_all_remembered(page: CheckpointPage, clock: list[float]) -> None:
    page = CheckpointPage(proven)
    answers = [page.answer("", f"address {number}")[0] for number in range(2 * MOST_ADDRESSES)]
    assert answers.count(HTTPStatus.TOO_MANY_REQUESTS) == 2 * MOST_ADDRESSES - heads.ALL_BURST
    assert len(page._of) == MOST_ADDRESSES


def test_an_allowance_is_no_more_than_its_burst(clock: list[float]) -> None:
    allowance = Allowance(2.0, 3)
    clock[0] += 1000.0
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
