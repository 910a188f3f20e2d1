"""How long trainers have to be told goodbye when a run is over."""

from types import SimpleNamespace

import pytest

from flserver.process.run import SESSION_GRACE, Run


@pytest.mark.parametrize(("connections", "seconds"), [(0, SESSION_GRACE), (10_000, SESSION_GRACE + 10)])
def test_thousands_have_longer_than_a_few(connections: int, seconds: float) -> None:
    given = list[float]()
    run = Run.__new__(Run)
    run.coordinator = SimpleNamespace(join=lambda: None)  # type: ignore[assignment]
    run.server = SimpleNamespace(  # type: ignore[assignment]
        open_connections=connections, stop_accepting=lambda: None, close=given.append
    )
    run.close()
    assert given == [pytest.approx(seconds)]
