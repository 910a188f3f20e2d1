"""Who may register how often: restarts as they happen are never refused, loops are, and cost nobody else anything."""

from dataclasses import replace

import pytest

from flserver.errors import RegistrationRefused
from flserver.identity.peer import Certificate, Peer
from flserver.identity.rules import Identity
from flserver.rounds import Rounds
from flserver.rounds.places import Places
from flserver.rounds.rates import MINUTE, OF_A_CLIENT, SWEEP, Allowances, Rate, RegistrationRates, of_an_address
from tests.rounds.policies import policy

SITE = Peer(host="10.0.0.1", port=1)
CLIENTS = 4  # for which an address has places
AT_ONCE = of_an_address(CLIENTS).at_once


def refused(rates: RegistrationRates, client_id: str, now: float, *, newcomer: bool = True, peer: Peer = SITE) -> str:
    with pytest.raises(RegistrationRefused) as caught:
        rates.take(client_id, peer, now, newcomer=newcomer)
    return str(caught.value)


def test_there_are_so_many_at_once_and_then_so_many_a_minute() -> None:
    left = Allowances(Rate(a_minute=6, at_once=3))
    for _ in range(3):
        assert left.seconds_to("a", 100.0) == 0
        left.take("a", 100.0)
    assert left.seconds_to("a", 100.0) == 10
    assert left.seconds_to("b", 100.0) == 0, "each has its own"
    assert left.seconds_to("a", 109.0) == 1
    assert left.seconds_to("a", 110.0) == 0
    left.take("a", 110.0)
    assert left.seconds_to("a", 110.0) == 10
    assert left.seconds_to("a", 1000.0) == 0
    for _ in range(3):
        left.take("a", 1000.0)
    assert left.seconds_to("a", 1000.0) == 10, "it fills up, and no further"


def test_what_is_kept_of_those_who_came_does_not_grow() -> None:
    left = Allowances(Rate(a_minute=6, at_once=2))
    left.take("busy", 0.0)
    for number in range(10 * SWEEP):
        left.take(str(number), float(number))
        left.take("busy", float(number))
    assert len(left) < 2 * SWEEP
    assert left.seconds_to("busy", 10.0 * SWEEP) > 0


def test_a_trainer_that_fails_every_second_for_minutes_or_every_five_for_an_hour_may_come_again() -> None:
    for pause, seconds in ((1, 5 * 60), (5, 45 * 60)):
        rates = RegistrationRates(clients=1)
        for now in range(0, seconds, pause):
            rates.take("a", SITE, float(now), newcomer=True)


def test_a_fleet_behind_one_address_may_come_again_at_once() -> None:
    rates = RegistrationRates(clients=2000)
    for _ in range(4):  # as newcomers, in a window that is open
        for number in range(2000):
            rates.take(str(number), SITE, 0.0, newcomer=True)
    for _ in range(100):  # and once they take part
        for number in range(2000):
            rates.take(str(number), SITE, 0.0, newcomer=False)


def test_whoever_comes_and_goes_in_a_loop_is_told_when_to_come_again() -> None:
    rates = RegistrationRates(CLIENTS)
    for _ in range(OF_A_CLIENT.at_once):
        rates.take("a", SITE, 0.0, newcomer=False)
    assert refused(rates, "a", 0.5, newcomer=False) == "Client a has registered too often. Try again in 10 s"
    rates.take("b", SITE, 0.5, newcomer=False)
    rates.take("a", SITE, 10.0, newcomer=False)
    assert "too often" in refused(rates, "a", 10.0, newcomer=False)


@pytest.mark.parametrize("ids", [AT_ONCE, 2])
def test_newcomers_of_an_address_have_an_allowance_together_and_who_takes_part_does_not_need_it(ids: int) -> None:
    rates = RegistrationRates(CLIENTS)
    for number in range(AT_ONCE):
        rates.take(f"new {number % ids}", SITE, 0.0, newcomer=True)
    said = refused(rates, "another", 0.0)
    assert said == "Too many clients have registered from 10.0.0.1. Try again in 6 s"
    rates.take("a", SITE, 0.0, newcomer=False)
    rates.take("another", replace(SITE, host="10.0.0.2"), 0.0, newcomer=True)
    minute = round(of_an_address(CLIENTS).a_minute)
    for number in range(minute):
        rates.take(f"later {number}", SITE, MINUTE, newcomer=True)
    assert "Too many" in refused(rates, "another", MINUTE)


def test_whose_a_registration_is_says_its_certificate_else_its_address() -> None:
    mine = Certificate(subject="CN=1", common_name="1", fingerprint="sha256:01")
    assert replace(SITE, certificate=mine).origin == "certificate sha256:01"
    assert SITE.origin == "10.0.0.1"
    home = {replace(SITE, host=f"2001:db8:0:7::{number}").origin for number in range(3)}
    assert home == {"2001:db8:0:7::/64"}, "who has one of these addresses has them all"
    assert replace(SITE, host="fe80::1%eth0").origin == "fe80::/64"
    assert replace(SITE, host="a socket pair").origin == "a socket pair"


def test_the_rules_ask_after_everything_else_and_know_who_takes_part() -> None:
    rounds = Rounds(policy(), {"old": (10, 1)}, None, Identity(), places=Places(in_all=9, an_address=CLIENTS))

    def again(client_id: str) -> None:
        rounds.leave(rounds.register(client_id, 10, SITE, 0.0))

    there = rounds.register("there", 10, SITE, 0.0)
    for _ in range(2 * OF_A_CLIENT.at_once):
        with pytest.raises(RegistrationRefused, match="registered already"):
            again("there")
    rounds.leave(there)
    for number in range(AT_ONCE - 1):
        again(f"new {number}")
    with pytest.raises(RegistrationRefused, match="Too many clients"):
        again("new")
    assert "new" not in rounds.participants, "nothing is kept of whom was refused"
    for _ in range(OF_A_CLIENT.at_once):
        again("old")
    with pytest.raises(RegistrationRefused, match="Client old has registered too often"):
        again("old")
