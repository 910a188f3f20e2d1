"""A model on its way to one registration, and the answer to it. Pure: times are monotonic seconds that somebody else
read."""

from dataclasses import dataclass

from flserver.frozen import frozen


@dataclass(eq=False)
class SentModel:
    """A model on its way to one registration. ``handed_over_at`` is set just before its last bytes are sent: an
    upload whose connection was accepted earlier cannot be its answer."""

    round: int
    attempt: int
    handed_over_at: float | None = None
    fully_sent_at: float | None = None

    def hand_over(self, now: float) -> None:
        """Its last bytes are about to go."""
        self.handed_over_at = now

    def take_back(self) -> None:
        """They did not go after all."""
        self.handed_over_at = None

    def sent(self, now: float) -> None:
        """All of it has gone."""
        self.fully_sent_at = now


@frozen()
class LastAnswer:
    """The upload that settled a model: a later one for the same model is a duplicate."""

    round: int
    digest: str | None
