"""Who held rounds up sits out the next ones: for 1, 2, 4, … rounds. Pure.

A round is held up by a client that misses its deadline, and by one that leaves without its answer while its connection
had not ended: the server gave it up. An end of file or a reset is no miss, for trainers are restarted; only one that
leaves a round which waits for it alone, and does so again, takes what a late answer would.

Answers in time forgive, but not one by one: else a few ids that take turns could hold every round up for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass

FORGIVEN_BY = 10  # answers in time, in a row: so an id holds up one round of eleven at most


@dataclass
class Backoff:
    """How a client kept its deadlines. It is not invited to a round before ``until``."""

    misses: int = 0
    until: int = 0
    _in_time: int = 0
    _excused: bool = False

    def missed(self, round: int) -> None:
        """It held up a round."""
        self.misses += 1
        self.until, self._in_time = round + 1 + 2 ** (self.misses - 1), 0

    def left_last(self, round: int) -> None:
        """Its connection ended while a round waited for it alone: excused once."""
        if self._excused:
            self.missed(round)
        self._excused, self._in_time = True, 0

    def answered(self) -> None:
        """It answered in time."""
        self._in_time += 1
        if self._in_time >= FORGIVEN_BY:
            self.misses, self._in_time, self._excused = max(0, self.misses - 1), 0, False

    def __str__(self) -> str:
        rounds = "a round" if self.misses == 1 else f"{self.misses} rounds"
        return f"it held up {rounds}: invited again from round {self.until} on"


def sitting_out(clients: Mapping[str, Backoff], round: int, quorum: int) -> set[str]:
    """Who of the ``clients`` that could be sent a model is not invited to ``round``.

    So many are invited that it can have its ``quorum``: those with the fewest misses first, and all who have as few.
    """
    out = {client_id: backoff.misses for client_id, backoff in clients.items() if round < backoff.until}
    short = quorum - (len(clients) - len(out))
    if short > 0:
        most = sorted(out.values())[min(short, len(out)) - 1] if out else 0
        out = {client_id: misses for client_id, misses in out.items() if misses > most}
    return set(out)
