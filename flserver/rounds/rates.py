"""How often may be registered: whoever leaves and comes again in a loop must not grow the record for ever. Pure.

A client may register ``OF_A_CLIENT`` often. Of ids that take no part yet anybody can think of ever new ones, so these
count for where they come from too: an address has what one client has, and as much again as it has places for clients.
Who takes part answers for itself alone: no neighbour behind its address can keep it from coming back.

An allowance fills up by so many a minute, to as many as there may be at once (a token bucket, kept as the one time at
which it is full again).
"""

import math
from dataclasses import dataclass

from flserver.errors import RegistrationRefused
from flserver.identity.peer import Peer

MINUTE = 60.0  # seconds
WAVES = 4  # of its clients, that an address may register at once
SWEEP = 1024  # allowances that are kept at least before the full ones are looked for


@dataclass(frozen=True)
class Rate:
    """So many a minute, and so many ``at_once`` where none came for long."""

    a_minute: float
    at_once: int


OF_A_CLIENT = Rate(a_minute=6, at_once=300)
"""A trainer that fails every second for minutes is one that somebody will mend; 5 s after each failure, as what keeps
trainers running starts them again, it may do so for an hour."""


def of_an_address(clients: int) -> Rate:
    """The rate of newcomers of an address that has places for so many clients."""
    return Rate(OF_A_CLIENT.a_minute + clients, OF_A_CLIENT.at_once + WAVES * clients)


class Allowances:
    """What is left to each of those that a rate is for. Times are monotonic seconds."""

    def __init__(self, rate: Rate) -> None:
        self._each, self._most = MINUTE / rate.a_minute, (rate.at_once - 1) * MINUTE / rate.a_minute
        self._full_at: dict[str, float] = {}  # those that are full now need not be in it
        self._sweep_at = SWEEP

    def __len__(self) -> int:
        return len(self._full_at)

    def seconds_to(self, whose: str, now: float) -> float:
        """Seconds until it has one to take; 0 where it has."""
        return max(0.0, self._full_at.get(whose, now) - now - self._most)

    def take(self, whose: str, now: float) -> None:
        """Use one up."""
        self._full_at[whose] = max(self._full_at.get(whose, now), now) + self._each
        if len(self._full_at) >= self._sweep_at:
            self._full_at = {one: full_at for one, full_at in self._full_at.items() if full_at > now}
            self._sweep_at = max(SWEEP, 2 * len(self._full_at))


class RegistrationRates:
    """The allowances of a server process, where an address has places for so many ``clients``."""

    def __init__(self, clients: int) -> None:
        self._clients, self._origins = Allowances(OF_A_CLIENT), Allowances(of_an_address(clients))

    def take(self, client_id: str, peer: Peer, now: float, *, newcomer: bool) -> None:
        """A client registers, that is a ``newcomer`` where it takes no part yet.

        Raises RegistrationRefused where that is too often, which uses nothing up.
        """
        if wait := self._clients.seconds_to(client_id, now):
            raise RegistrationRefused(f"Client {client_id} has registered too often. {_again(wait)}")
        if newcomer:
            if wait := self._origins.seconds_to(peer.origin, now):
                raise RegistrationRefused(f"Too many clients have registered from {peer.origin}. {_again(wait)}")
            self._origins.take(peer.origin, now)
        self._clients.take(client_id, now)


def _again(wait: float) -> str:
    return f"Try again in {math.ceil(wait)} s"
