"""The rules of a run's rounds, pure: who is in, what counts, when an attempt is over."""

from flserver.rounds.rules import Rounds
from flserver.rounds.state import Answer, Attempt, Participant, Registration, Result, Seat, SentModel, Verdict

__all__ = ["Answer", "Attempt", "Participant", "Registration", "Result", "Rounds", "Seat", "SentModel", "Verdict"]
