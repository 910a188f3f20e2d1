"""The join window: from the first registration until the run's first round, or until a resumed run goes on. Pure."""

from dataclasses import dataclass

from flserver.settings import RoundPolicy

SLIDES_FOR = 10  # times --time-to-wait, after which a sliding window ends however many still come


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Before a join window's time is up, whether it is ``open``, for somebody is there, and whether ``enough`` are;
    after that, how many it is ``short`` of and stays open for."""

    open: bool = False
    enough: bool = False
    short: int = 0


class JoinWindow:
    """``--time-to-wait`` seconds from the first registration in it, or from the latest (``--join-window``), and longer
    while too few clients are there. Times are monotonic seconds.

    Only those who are there count: who left before it closed has neither opened it nor kept it open. ``ended_at`` is
    when its end came, None before that; who begins to register then does not delay it any more.
    """

    def __init__(self, policy: RoundPolicy) -> None:
        self._policy = policy
        # When they registered, the earliest first. Of the first time also those who left, while anybody is there.
        self._there: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self.open = True
        self.at_least = 1  # clients, that a round needs as was settled before
        self.ended_at: float | None = None

    def take(self, client_id: str, now: float) -> None:
        """A client registered. Of no effect once the window is closed."""
        if self.open:
            self._there.pop(client_id, None)
            self._there[client_id] = now
            self._first.setdefault(client_id, now)

    def drop(self, client_id: str) -> None:
        """A client left."""
        self._there.pop(client_id, None)
        if not self._there:
            self._first.clear()

    @property
    def closes_at(self) -> float | None:
        """When it may close; None while nobody is there."""
        if not self._there:
            return None
        began, wait = next(iter(self._there.values())), self._policy.time_to_wait
        if self._policy.join_window == "fixed":
            return began + wait
        # One that comes again does not keep it open, nor do ever new ones for ever: honest trainers wait for its end.
        latest = next(at for client_id, at in reversed(self._first.items()) if client_id in self._there)
        return min(latest + wait, began + SLIDES_FOR * wait)

    def over(self, now: float, *, live: int, all_there: bool) -> bool:
        """Whether its end has come: its time is up, or everyone who can come is ``all_there``, and of the clients
        enough are ``live``."""
        closes_at = self.closes_at
        over = closes_at is not None and (now >= closes_at or all_there) and live >= self.needed
        if not over:
            self.ended_at = None
        elif self.ended_at is None:
            self.ended_at = now
        return over

    def stage(self, now: float, *, live: int) -> Stage:
        """How far it is, with so many clients ``live``."""
        closes_at, short = self.closes_at, max(0, self.needed - live)
        if closes_at is None:
            return Stage()
        return Stage(short=short) if now >= closes_at else Stage(open=live > 0, enough=not short)

    @property
    def needed(self) -> int:
        """How many clients it stays open for."""
        return max(self._policy.min_clients, self._policy.min_updates or self.at_least)

    @property
    def admits(self) -> bool:
        """Whether a newcomer may still register."""
        return self.open and self.ended_at is None

    def close(self) -> int:
        """Nobody joins from here on. Returns the least number of updates that commits a round, where nobody has said
        one: 1 where one client alone is there, else 2.

        One client alone makes rounds of its own model. Nobody else is sent that: whoever left the window before is a
        newcomer now.
        """
        self.open = False
        return 1 if len(self._there) == 1 else 2
