"""What the tests of the sweeps share."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _forked(forker: None) -> None:
    """The sweeps are."""
