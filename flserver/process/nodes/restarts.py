"""How often what died is started again: the rule of a supervisor, which has no clock, thread or process of its own."""

from collections import deque

BURST, INTERVAL = 5, 60.0  # so many deaths within so many seconds: then none is started in the place of the last one
TOO_OFTEN = f"{BURST} nodes went within {INTERVAL:g} s: none is started in their place"
NONE_LEFT = "no node is left"


class RestartBudget:
    """Of ``slots`` in each of which a process is to be. One that died is started again while the budget allows it;
    else its slot stays empty, and so does one whose process cannot be started at all. For one thread at a time."""

    def __init__(self, slots: int, burst: int = BURST, interval: float = INTERVAL) -> None:
        self._slots, self._burst, self._interval = slots, burst, interval
        self._deaths: deque[float] = deque(maxlen=burst)

    def allows(self, died: float) -> bool:
        """One died at that time (seconds, of a clock that never goes back): whether another may come in its place."""
        self._deaths.append(died)
        return len(self._deaths) < self._burst or died - self._deaths[0] >= self._interval

    def give_up(self) -> bool:
        """A slot stays empty from here on. Whether none is left."""
        self._slots -= 1
        return self._slots <= 0
