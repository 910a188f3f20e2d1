"""A run's rounds: who is in, what counts, when an attempt is over, and how a round is made of it.

``rules``, ``seats`` and ``outcomes`` are pure. ``exchange`` is where sessions and the coordinator meet, under the one
lock; ``coordinator`` says when, ``committer`` makes one round, ``broadcast`` has its bytes.
"""

from flserver.rounds.rules import Rounds
from flserver.rounds.seats import (
    Attempt,
    LastAnswer,
    Participant,
    Registration,
    Result,
    Seat,
    SentModel,
    Upload,
    Verdict,
)

__all__ = [
    "Attempt",
    "LastAnswer",
    "Participant",
    "Registration",
    "Result",
    "Rounds",
    "Seat",
    "SentModel",
    "Upload",
    "Verdict",
]
