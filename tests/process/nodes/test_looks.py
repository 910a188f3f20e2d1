"""Whether a node of this machine is there is asked, and one that is at work is left in peace."""

import threading
from typing import Any

import pytest

from flserver.process.nodes import calls
from flserver.process.nodes.calls import Answer, Caller
from tests.patience import PATIENCE, eventually
from tests.process.nodes.calling import between


@pytest.mark.parametrize("asked", [True, False], ids=["before a model", "where nothing is asked"])
def test_a_node_that_hangs_is_gone_although_the_system_takes_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    now, lost, goes = [0.0], list[str](), threading.Event()
    monkeypatch.setattr(calls, "monotonic", lambda: now[0])

    def hangs(given: list[Any], taken: list[int]) -> Answer:
        goes.wait(PATIENCE)
        return [], ()

    with between({"there": hangs, "model": hangs}) as (caller, _):
        caller.lost = lost.append
        if asked:
            caller.call("model")
        caller.look()
        now[0] += PATIENCE - 1
        caller.look()
        assert (lost, caller.over) == ([], False)
        now[0] += 1
        caller.look()
        assert lost == [f"it has answered nothing for {PATIENCE:g} s"]
        eventually(lambda: caller.over)
        goes.set()


def test_one_that_is_there_or_at_work_is_left_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lost, goes, asked = [0.0], list[str](), threading.Event(), list[str]()
    monkeypatch.setattr(calls, "monotonic", lambda: now[0])

    def there(given: list[Any], taken: list[int]) -> Answer:
        asked.append("there")
        return [], ()

    def works(given: list[Any], taken: list[int]) -> Answer:
        goes.wait(PATIENCE)
        return [], ()

    with between({"there": there, "works": works}) as (caller, _):
        caller.lost = lost.append
        for count in (1, 2, 3):
            caller.look()
            eventually(lambda count=count: len(asked) == count and not caller._asked)
            now[0] += 2 * PATIENCE
        done = caller.call("works", long=True)
        for _ in range(3):
            caller.look()
            now[0] += 2 * PATIENCE
        goes.set()
        assert done.result(PATIENCE)
    assert (asked, lost) == (["there"] * 3, [])


def test_nothing_long_comes_between_looking_and_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a node that works for minutes would be asked behind that, and be taken for gone."""
    free = list[bool]()

    def try_lock(caller: Caller) -> None:
        if got := caller._lock.acquire(blocking=False):
            caller._lock.release()
        free.append(got)

    with between({"there": lambda given, taken: ([], ())}) as (caller, _):
        ask = caller.call

        def call(*given: Any, **more: Any) -> Any:
            other = threading.Thread(target=try_lock, args=(caller,))
            other.start()
            other.join()
            return ask(*given, **more)

        monkeypatch.setattr(caller, "call", call)
        caller.look()
    assert free == [False]
