"""The sums of these tests are made by numba's loops, and by numpy's."""

import pytest

from flserver.aggregation import kernel


@pytest.fixture(params=["numba", "numpy"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> kernel.Loops:
    """What all sums of the test run on."""
    chosen = kernel.load() if request.param == "numba" else kernel.Plain()
    assert chosen.name == request.param
    monkeypatch.setattr(kernel, "load", lambda: chosen)
    return chosen
