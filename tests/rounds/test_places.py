"""How many clients may be there, and what is said where there are no more places."""

from collections import Counter

import pytest

from flserver.errors import RegistrationRefused
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.rounds import Registration, Rounds
from flserver.rounds.places import Places, by_address
from tests.rounds.policies import policy


def join(rounds: Rounds, client_id: str, host: str) -> Registration:
    registration = rounds.register(client_id, 10, Peer(host=host, port=1), 0.0)
    rounds.confirm_registration(registration)
    return registration


def refused(rounds: Rounds, client_id: str, host: str) -> RegistrationRefused:
    with pytest.raises(RegistrationRefused) as caught:
        join(rounds, client_id, host)
    return caught.value


def test_an_address_has_its_places_and_the_others_theirs() -> None:
    rounds = Rounds(policy(), {}, None, Identity(), places=Places(in_all=4, an_address=2))
    first = join(rounds, "1", "10.0.0.1")
    join(rounds, "2", "10.0.0.1")
    said = refused(rounds, "3", "10.0.0.1")
    assert str(said) == said.told == "The server is full for 10.0.0.1: an address has places for 2 clients"
    for client_id in "45":
        join(rounds, client_id, "10.0.0.2")
    full = refused(rounds, "6", "10.0.0.3")
    assert full.told == "The server is full: it has places for 4 clients", "not who the others are"
    assert str(full) == f"{full.told}; registered are 2 from 10.0.0.1, 2 from 10.0.0.2"
    rounds.leave(first)
    assert join(rounds, "6", "10.0.0.3").number == 1
    assert refused(rounds, "1", "10.0.0.1").told == full.told, "who comes back needs a place too"


def test_a_half_registered_one_has_a_place() -> None:
    rounds = Rounds(policy(), {}, None, Identity(), places=Places(in_all=1, an_address=1))
    rounds.register("1", 10, Peer(host="10.0.0.1", port=1), 0.0)
    assert "places for 1 clients" in str(refused(rounds, "2", "10.0.0.2"))


def test_few_addresses_are_named_and_the_others_counted() -> None:
    hosts = Counter({"10.0.0.9": 1024, "10.0.0.2": 3, "10.0.0.3": 2, "10.0.0.4": 1, "10.0.0.5": 1})
    assert by_address(hosts) == "1024 from 10.0.0.9, 3 from 10.0.0.2, 2 from 10.0.0.3, 2 from 2 more"
