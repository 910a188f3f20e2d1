"""The join window: from the first registration until the run's first round, or until a resumed run goes on. Pure."""

from flserver.settings import RoundPolicy


class JoinWindow:
    """``--time-to-wait`` seconds from the first registration in it, or from the latest (``--join-window``), and longer
    while too few clients are there. Times are monotonic seconds."""

    def __init__(self, policy: RoundPolicy) -> None:
        self._policy = policy
        self._from: float | None = None
        self._clients: set[str] = set()
        self.open = True

    def take(self, client_id: str, now: float) -> None:
        """A client registered. Of no effect once the window is closed."""
        if not self.open:
            return
        # One that comes again does not keep a sliding window open: it could do so for ever.
        slides = self._policy.join_window == "sliding" and client_id not in self._clients
        if self._from is None or slides:
            self._from = now
        self._clients.add(client_id)

    @property
    def closes_at(self) -> float | None:
        """When it may close; None before the first registration."""
        return None if self._from is None else self._from + self._policy.time_to_wait

    def over(self, now: float, *, live: int, all_there: bool) -> bool:
        """Whether it may close: its time is up, or everyone who can come is ``all_there``, and of the clients enough
        are ``live``."""
        if self.closes_at is None:
            return False
        return (now >= self.closes_at or all_there) and live >= self.needed

    def short_of(self, now: float, *, live: int) -> int:
        """How many more clients it stays open for although its time is up; 0 before that."""
        return 0 if self.closes_at is None or now < self.closes_at else max(0, self.needed - live)

    @property
    def needed(self) -> int:
        """How many clients it stays open for."""
        return max(self._policy.min_clients, self._policy.min_updates or 1)

    def close(self) -> int:
        """Nobody joins from here on. Returns the least number of updates that commits a round, where nobody has said
        one: 1 where one client alone was here, else 2.

        One client alone makes rounds of its own model, so it must have been alone from the start: otherwise a single
        site's model would be broadcast as soon as the others dropped out.
        """
        self.open = False
        return 1 if len(self._clients) == 1 else 2
