"""How many clients may be there at once, and who fills the places. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from flserver.errors import RegistrationRefused

SHOWN = 3  # addresses that a line names; the others are counted


@dataclass(frozen=True)
class Places:
    """For how many clients there are places, in all and from one address."""

    in_all: int
    an_address: int

    def check(self, host: str, taken: Iterable[str]) -> None:
        """Whether there is a place for one more from ``host``, where those who are there came from the hosts ``taken``.

        Raises RegistrationRefused; who fills the server is not for the trainer to know.
        """
        hosts = Counter(taken)
        if hosts.total() >= self.in_all:
            full = f"The server is full: it has places for {self.in_all} clients"
            raise RegistrationRefused(f"{full}; registered are {by_address(hosts)}", told=full)
        if hosts[host] >= self.an_address:
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
