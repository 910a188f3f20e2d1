"""Where a test may step in: the steps that make the record durable and are no system call of their own.

A hook is installed by code, in the process that is tested; no flag, variable or setting leads here. Without one, which
is always so in the field, a step costs a comparison.
"""

from collections.abc import Callable
from typing import Literal

Step = Literal["commit", "committed"]
"""A transaction is about to be committed, and it is."""

_hook: Callable[[Step], None] | None = None


def install(hook: Callable[[Step], None] | None) -> None:
    """Have ``hook`` called at each step, on the thread that takes it; None: nobody."""
    global _hook
    _hook = hook


def reach(step: Step) -> None:
    """The process comes to ``step``."""
    if _hook is not None:
        _hook(step)
