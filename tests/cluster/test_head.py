"""Whether a cluster's head is there: asked by a connection, and gone only after some time."""

import socket
from collections.abc import Iterable, Iterator

import pytest

from flserver.cluster import head as ray_head
from flserver.cluster.head import GONE_SECONDS, LOOK_SECONDS, Head
from tests.patience import eventually

LOOKS = int(GONE_SECONDS / LOOK_SECONDS)  # in a row without an answer that are no end yet


def looked(monkeypatch: pytest.MonkeyPatch, answers: Iterable[bool]) -> tuple[Iterator[bool], list[str]]:
    """Have these answers, one every ``LOOK_SECONDS`` of a clock of its own. What of them is left when it ended, and
    what was told."""
    left, told, now = iter(answers), list[str](), [0.0]

    class Watched(Head):
        def _answers(self) -> bool:
            now[0] += LOOK_SECONDS
            if (answer := next(left, None)) is None:
                self._stopped.set()
            return bool(answer)

    monkeypatch.setattr(ray_head, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(ray_head, "monotonic", lambda: now[0])
    head = Watched("10.0.0.1:6379", told.append)
    head._watch()
    assert head.is_gone == bool(told)
    return left, told


def test_a_head_that_does_not_answer_for_long_is_gone_and_that_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left, told = looked(monkeypatch, [True, *[False] * (LOOKS + 1), True, True])
    assert list(left) == [True, True], "it asks no more"
    (why,) = told
    assert why.startswith("the head of the Ray cluster, 10.0.0.1:6379, is gone")


def test_a_head_that_answers_again_in_time_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    left, told = looked(monkeypatch, [*[False] * LOOKS, True] * 3)
    assert not told
    assert not list(left)


def test_it_asks_by_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_head, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ray_head, "GONE_SECONDS", 0.0)
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        head = Head(f"127.0.0.1:{listening.getsockname()[1]}", told.append)
        head.start()
        listening.accept()[0].close()
        listening.accept()[0].close()
        assert not told
    try:
        eventually(lambda: told)
    finally:
        head.close()
    assert head.is_gone
