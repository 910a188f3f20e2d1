"""What came of a client in a round, in one word, and how the picture shows it: a colour and a shape. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class State:
    """``top`` and ``height`` are the shape: the part of the cell that is filled, from 0 at its top to 1.

    ``grave`` orders them where one cell stands for several rounds: the gravest is shown.
    """

    key: str
    label: str
    meaning: str
    top: float
    height: float
    grave: int


STATES = (
    State(key="accepted", label="accepted", meaning="its update is in the round's model", top=0, height=1, grave=0),
    State(key="late", label="late", meaning="answered after the attempt was over", top=0.5, height=0.5, grave=5),
    State(key="rejected", label="rejected", meaning="answered with what cannot be used", top=0, height=0.5, grave=7),
    State(key="timed_out", label="no answer in time", meaning="the deadline came first", top=0.7, height=0.3, grave=6),
    State(key="dropped", label="dropped out", meaning="its connection ended first", top=0, height=0.3, grave=8),
    State(key="aborted", label="aborted", meaning="its attempt came to nothing", top=0.2, height=0.6, grave=4),
    State(key="lost", label="lost", meaning="the ingest node that had it is gone", top=0.25, height=0.75, grave=9),
    State(key="not_sent", label="passed over", meaning="not invited: it owed or sat out", top=0.4, height=0.2, grave=3),
    State(key="waiting", label="still open", meaning="the round was running", top=0.35, height=0.3, grave=2),
)
"""In the order of the legend."""
NUMBER = {state.key: number for number, state in enumerate(STATES)}
ABSENT = len(STATES)
"""What stands where there is no row: the client was not there."""


def state_of(participation: str | None, decision: str | None) -> int:
    """Which of the STATES a row of v1_client_rounds is, by its number."""
    if decision in ("accepted", "late", "rejected", "aborted", "lost"):
        return NUMBER[decision]
    if participation in ("dropped", "timed_out", "not_sent"):
        return NUMBER[participation]
    return NUMBER["aborted" if participation == "cut_short" else "waiting"]
