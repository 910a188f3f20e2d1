"""How a fleet is split: which part plays whom, where its trainers come from, and how they are named."""

import json
import socket

import pytest

from flserver.settings import hosts
from flserver.simulation.parts import Part, named, sources_of, split
from flserver.simulation.script import Member, Shares, from_line, make

HERE: hosts.Address = (socket.AF_INET, ("127.0.0.1", 50052))
PORTS = 28_232


def fleet(trainers: int) -> list[Member]:
    return make(trainers, 3, 7, Shares(drop_out=0.5, lie=0.5))


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 10, 11, 64])
def test_each_trainer_is_played_by_one_part_and_the_same_again(parts: int) -> None:
    members = fleet(10)
    made = split(members, parts, HERE, ports=PORTS)
    assert split(members, parts, HERE, ports=PORTS) == made
    assert [part.number for part in made] == [*range(1, min(parts, 10) + 1)]
    assert {part.of for part in made} == {len(made)}
    sizes = {len(part.members) for part in made}
    assert max(sizes) - min(sizes) <= 1
    whose = {member.id: part.number for part in made for member in part.members}
    assert whose == {member.id: 1 + place % len(made) for place, member in enumerate(members)}
    assert sum(len(part.members) for part in made) == len(members)


def test_what_a_part_is_told_is_what_it_is() -> None:
    (part,) = split(fleet(20), 1, HERE, {"seed": 3}, ports=30)
    told = json.loads(part.to_line())
    assert [from_line(line) for line in told["members"]] == part.members
    assert (told["where"], told["source"]) == ([socket.AF_INET, ["127.0.0.1", 50052]], "127.0.0.1")
    assert told["training"] == {"seed": 3}


def test_parts_come_from_addresses_of_their_own_where_one_has_too_few_ports() -> None:
    assert sources_of(HERE, 9_410, 3, PORTS) == [None, None, None]
    assert sources_of(HERE, 9_411, 3, PORTS) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert sources_of(HERE, 100_000, 256, PORTS)[-2:] == ["127.0.0.255", "127.0.1.0"]
    # Elsewhere the system says: it knows which address leads there.
    elsewhere: list[hosts.Address] = [
        (socket.AF_INET, ("192.0.2.1", 50052)),
        (socket.AF_INET6, ("::1", 50052, 0, 0)),
        (socket.AF_INET6, ("fe80::1%lo", 50052, 0, 1)),
    ]
    for where in elsewhere:
        assert sources_of(where, 100_000, 2, PORTS) == [None, None]


def test_a_part_is_named_by_its_trainers() -> None:
    members = fleet(2_500)
    assert named(["7"]) == "1 trainer (7)"
    assert named([one.id for one in members]) == "2,500 trainers (1, 2, 3, 4, 5, 6, 7, 8 and 2,492 more)"
    part = Part(number=2, of=3, members=members[:2], where=HERE)
    assert str(part) == "part 2 of 3 of the fleet, 2 trainers (1, 2),"
