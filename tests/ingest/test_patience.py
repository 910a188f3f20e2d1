"""For how long a node is waited for, as time goes on and somebody may ask for the run's end."""

import pytest

from flserver.ingest.patience import BEYOND_STOP, LOOK_SECONDS, Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    for module in ("flserver.clock", "flserver.ingest.patience"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: now[0])
    return now


def test_it_is_so_many_seconds_looked_at_again_and_again(clock: list[float]) -> None:
    waits = Patience(120.0, lambda: None)
    assert waits.left == LOOK_SECONDS
    clock[0] += 119.5
    assert waits.left == 0.5
    clock[0] += 0.5
    assert waits.left == 0


def test_a_stop_ends_it_a_while_after_its_grace(clock: list[float]) -> None:
    stops: list[float] = []
    waits = Patience(600.0, lambda: stops[0] if stops else None)
    clock[0] += 10
    stops.append(clock[0] + 3)  # --stop-grace 3
    clock[0] += 3 + BEYOND_STOP - 0.25
    assert waits.left == 0.25
    clock[0] += 0.25
    assert waits.left == 0
