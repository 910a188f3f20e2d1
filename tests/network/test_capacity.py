"""Whose place nobody can take, and who goes first: by what is seen of the connections."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.identity.peer import Certificate, Peer
from flserver.network.capacity import Clients, kept_for_uploads, who_goes
from tests.examples import times

HOSTS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


def peer(host: str, certificate: str | None = None) -> Peer:
    shown = None
    if certificate is not None:
        shown = Certificate(subject=f"CN={certificate}", common_name=certificate, fingerprint=f"sha256:{certificate}")
    return Peer(host=host, port=1, certificate=shown)


@dataclass(frozen=True)
class Seen:
    """A connection."""

    connection_id: int
    peer: Peer
    registered: bool = False
    silent: bool = True
    first_bytes: int = 0


def goes(served: list[Seen], there: list[Peer], newcomer: str) -> list[int] | None:
    found = who_goes(served, (), Clients(there, there), lambda peer: peer.host == newcomer)
    return None if found is None else [one.connection_id for one in found]


def test_an_upload_of_a_registered_client_is_not_cut_for_anybody() -> None:
    here, away = peer(HOSTS[0]), peer(HOSTS[1])
    served = [Seen(1, here, registered=True), Seen(2, here, first_bytes=900), Seen(3, away), Seen(4, here)]
    assert goes(served, [here], HOSTS[1]) == [3, 4], "of the two from its address it is the one that sent more"
    assert goes([served[0], served[1]], [here], HOSTS[1]) is None


def test_where_all_have_spoken_a_client_without_an_upload_has_room_and_nobody_else() -> None:
    honest, greedy = peer(HOSTS[0]), peer(HOSTS[1])
    registered = [Seen(1, honest, registered=True), Seen(2, greedy, registered=True)]
    spoken = [Seen(number, greedy, silent=False, first_bytes=9) for number in (3, 4, 5)]
    there = [honest, greedy]
    assert goes([*registered, *spoken], there, HOSTS[1]) is None, "it has its place already"
    assert goes([*registered, *spoken], there, HOSTS[2]) is None
    assert goes([*registered, *spoken], there, HOSTS[0]) == [3, 4], "the oldest of those that are beyond a place"


def test_where_only_the_places_of_its_own_address_are_left_who_sent_least_goes() -> None:
    """Behind one address an idle connection must not keep a neighbour's upload out."""
    here = peer(HOSTS[0])
    served = [
        Seen(1, here, registered=True),
        Seen(2, here, registered=True),
        Seen(3, here, first_bytes=900),
        Seen(4, here),
    ]
    assert goes(served, [here, here], HOSTS[0]) == [4, 3]
    assert goes(served, [here, here], HOSTS[1]) is None


def test_a_certificate_tells_neighbours_apart() -> None:
    honest, greedy = peer(HOSTS[0], "a"), peer(HOSTS[0], "b")
    spoken = [Seen(number, greedy, silent=False, first_bytes=9) for number in (3, 4, 5)]
    served = [Seen(1, honest, registered=True), Seen(2, greedy, registered=True), *spoken]
    assert goes(served, [honest, greedy], HOSTS[0]) == [3, 4], "who comes from there may be the other one"
    assert goes([*served, Seen(6, honest)], [honest, greedy], HOSTS[0]) is None


def test_one_that_left_has_no_place_but_goes_after_strangers() -> None:
    left = peer(HOSTS[0])
    served = [Seen(1, left, first_bytes=5), Seen(2, peer(HOSTS[1]), first_bytes=9)]
    found = who_goes(served, (), Clients([left], []), lambda peer: peer.host == HOSTS[2])
    assert found is not None
    assert [one.connection_id for one in found] == [2, 1]


def test_who_is_going_already_is_not_asked_again() -> None:
    here = peer(HOSTS[0])
    one, other = Seen(1, here), Seen(2, here)
    assert who_goes([one, other], {one}, Clients([], []), lambda peer: True) == [other]
    assert who_goes([one], {one}, Clients([], []), lambda peer: True) is None
    there = Clients([here], [here])
    assert who_goes([one], {one}, there, lambda peer: True) == [], "no wait: whoever goes is nobody's upload any more"
    assert who_goes([one, other], {one}, there, lambda peer: True) == [other], "which has the place, and keeps none out"


seen = st.builds(
    Seen,
    connection_id=st.integers(1, 10**6),
    peer=st.builds(peer, st.sampled_from(HOSTS), st.sampled_from([None, "a", "b", "c"])),
    silent=st.booleans(),
    first_bytes=st.integers(0, 3),
)


@times(0.5)
@given(
    st.lists(seen, max_size=30, unique_by=lambda one: one.connection_id),
    st.lists(st.sampled_from(HOSTS), max_size=6),
    st.sampled_from(HOSTS),
)
def test_half_of_the_places_are_enough_for_every_clients_upload(
    uploads: list[Seen], clients: list[str], newcomer: str
) -> None:
    """Whatever the others do: with twice as many places as clients there is one to be had for who has none."""
    there = [peer(host) for host in clients]
    uploads = [Seen(one.connection_id, peer(one.peer.host), False, one.silent, one.first_bytes) for one in uploads]
    registered = [Seen(-number, one, registered=True) for number, one in enumerate(there, 1)]
    kept = kept_for_uploads(uploads, there)
    assert len(kept) <= len(there)
    found = goes([*registered, *uploads], there, newcomer)
    of_newcomer = [one for one in kept if one.peer.host == newcomer]
    if len(of_newcomer) < clients.count(newcomer):
        assert found is not None
        assert found or len(registered) + len(uploads) < 2 * len(there)
    assert not set(found or ()) & {one.connection_id for one in registered}
    others = {one.connection_id for one in kept if one.peer.host != newcomer}
    assert not set(found or ()) & others, "nobody takes the place of another address"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_clients_of_an_address_have_their_places_together(count: int) -> None:
    there = [peer(HOSTS[0])] * count
    uploads = [Seen(number, peer(HOSTS[0])) for number in range(1, 8)]
    assert len(kept_for_uploads(uploads, there)) == count
