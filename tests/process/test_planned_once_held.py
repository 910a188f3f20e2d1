"""A run that is resumed is planned by what is there once its lock is held."""

from types import SimpleNamespace
from typing import Any

import pytest

from flserver.errors import UsageError
from flserver.process.launch import plan_and_take


class Lock:
    """Between its asking and its having, another server ends its work on the run."""

    def __init__(self, committed: int, newest: str) -> None:
        self.after, self.committed, self.newest, self.taken = (committed, newest), 1, "night", list[str]()

    def take_run(self, run_id: str) -> None:
        self.taken.append(run_id)
        self.committed, self.newest = self.after

    def plan(self) -> Any:
        return SimpleNamespace(run_id=self.newest, name=self.newest, resumed={"committed": self.committed})


def test_what_another_server_committed_meanwhile_is_in_the_plan() -> None:
    lock: Any = Lock(5, "night")
    plan: Any = plan_and_take(lock, lock.plan)
    assert plan.resumed == {"committed": 5}
    assert lock.taken == ["night"]


def test_another_run_that_is_meant_meanwhile_is_said() -> None:
    lock: Any = Lock(5, "day")
    with pytest.raises(UsageError, match="while run night was looked up"):
        plan_and_take(lock, lock.plan)
