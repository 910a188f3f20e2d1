"""How often what died is started again: the rule of a supervisor, which has no clock, thread or process of its own."""

from collections import defaultdict, deque
from functools import partial

BURST, INTERVAL = 5, 60.0  # so many deaths in one slot within so many seconds: then none is started there any more
TOO_OFTEN = f"{BURST} nodes went within {INTERVAL:g} s: none is started there any more"
NONE_LEFT = "no node is left"


class RestartBudget:
    """Of ``slots`` in each of which a process is to be. One that died is started again while its slot's budget allows
    it: with a machine many die at once, and all may come again elsewhere. Else its slot stays empty, and so does one
    whose process cannot be started at all. For one thread at a time."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._deaths: defaultdict[int, deque[float]] = defaultdict(partial(deque, maxlen=BURST))

    def allows(self, slot: int, died: float) -> bool:
        """One died in that slot at that time (seconds, of a clock that never goes back): whether another may come in
        its place."""
        deaths = self._deaths[slot]
        deaths.append(died)
        return len(deaths) < BURST or died - deaths[0] >= INTERVAL

    def give_up(self) -> bool:
        """A slot stays empty from here on. Whether none is left."""
        self._slots -= 1
        return self._slots <= 0
