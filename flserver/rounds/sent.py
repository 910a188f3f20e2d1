"""A model on its way to one registration, and the answer to it. Pure: times are monotonic seconds that somebody else
read."""

from dataclasses import dataclass

from flserver.frozen import frozen


@dataclass(eq=False)
class SentModel:
    """A model on its way to one registration. ``handed_over_at`` is set just before its last bytes are sent: an
    upload whose connection was accepted earlier cannot be its answer. An ``inherited`` one was handed over by an
    earlier server of the run, before any connection that this one knows was accepted; its ``digest`` is that of
    ``CurrentModel``, for it may be of a history that is not this server's."""

    round: int
    attempt: int
    handed_over_at: float | None = None
    fully_sent_at: float | None = None
    inherited: bool = False
    digest: str | None = None

    @property
    def handed_over(self) -> bool:
        """Whether its trainer has it, or is about to."""
        return self.inherited or self.handed_over_at is not None

    def asks(self, accepted_at: float) -> bool:
        """Whether an upload whose connection was accepted then can answer it."""
        return self.inherited if self.handed_over_at is None else accepted_at >= self.handed_over_at

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
