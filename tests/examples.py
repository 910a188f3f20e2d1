"""How many examples a property is tried with."""

from hypothesis import settings


def times(factor: float, **more: object) -> settings:
    """``factor`` times as many as the profile says (``tests/conftest.py``): more where one costs next to nothing and
    few of them are of use, fewer where each is a whole run."""
    return settings(max_examples=round(factor * settings().max_examples), **more)  # type: ignore[arg-type]
