"""How many clients may be there at once, and who fills the places. Pure."""

from collections import Counter
from dataclasses import dataclass, field

from flserver.errors import RegistrationRefused

SHOWN = 3  # addresses that a line names; the others are counted


@dataclass
class Taken:
    """The places that are taken, in all and by host: counted as clients come and go."""

    in_all: int = 0
    by_host: Counter[str] = field(default_factory=Counter)

    def take(self, host: str) -> None:
        """A client from there comes."""
        self.in_all += 1
        self.by_host[host] += 1

    def give_back(self, host: str) -> None:
        """One that came from there leaves."""
        self.in_all -= 1
        self.by_host[host] -= 1
        if not self.by_host[host]:
            del self.by_host[host]


@dataclass(frozen=True)
class Places:
    """For how many clients there are places, in all and from one address."""

    in_all: int
    an_address: int

    def check(self, host: str, taken: Taken) -> None:
        """Whether there is a place for one more from ``host``.

        Raises RegistrationRefused; who fills the server is not for the trainer to know.
        """
        if taken.in_all >= self.in_all:
            full = f"The server is full: it has places for {self.in_all} clients"
            raise RegistrationRefused(f"{full}; registered are {by_address(taken.by_host)}", told=full)
        if taken.by_host[host] >= self.an_address:
            raise RegistrationRefused(
                f"The server is full for {host}: an address has places for {self.an_address} clients"
            )


def by_address(hosts: Counter[str]) -> str:
    """How many are from where, as text for people: the most first, and a few addresses only."""
    named = [f"{count} from {host}" for host, count in hosts.most_common(SHOWN)]
    others = hosts.total() - sum(count for _, count in hosts.most_common(SHOWN))
    if others:
        named.append(f"{others} from {len(hosts) - SHOWN} more")
    return ", ".join(named)
