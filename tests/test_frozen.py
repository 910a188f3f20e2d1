"""Frozen values that are made quickly are in all else what a frozen dataclass is."""

import dataclasses
from dataclasses import dataclass, field

import pytest

from flserver.frozen import frozen


@frozen(kw_only=True)
class Base:
    """Has a default that is made."""

    at: list[int] = field(default_factory=list)


@frozen(kw_only=True)
class Fact(Base):
    """Its fields with and without defaults are in any order."""

    name: str = "none"
    number: int


@frozen()
class Pair:
    """Takes its fields in their order."""

    one: int
    other: int | None = None


@dataclass(frozen=True)
class Plain:
    """The same, of the library's."""

    one: int
    other: int | None = None


def test_it_has_its_fields_in_their_order() -> None:
    assert vars(Fact(number=3, name="x", at=[1])) == {"at": [1], "name": "x", "number": 3}
    assert list(vars(Fact(number=3))) == [field.name for field in dataclasses.fields(Fact)]
    assert Pair(1, 2) == Pair(other=2, one=1) != Pair(1)


def test_a_default_that_is_made_is_made_for_each() -> None:
    first, second = Fact(number=1), Fact(number=1)
    assert first.at == second.at == []
    assert first.at is not second.at


@pytest.mark.parametrize("call", [lambda of: of(), lambda of: of(1, 2, 3), lambda of: of(1, another=2)])
def test_a_wrong_call_raises_what_a_dataclass_raises(call: object) -> None:
    said = []
    for cls in (Pair, Plain):
        with pytest.raises(TypeError) as caught:
            call(cls)  # type: ignore[operator]
        said.append(str(caught.value).replace("Pair", "Plain"))
    assert said[0] == said[1]


def test_nothing_in_it_changes() -> None:
    fact = Fact(number=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fact.number = 4  # type: ignore[misc]
    assert dataclasses.replace(fact, number=4).number == 4
    assert hash(Pair(1, 2)) == hash(Pair(1, 2))
    assert repr(Pair(1)) == "Pair(one=1, other=None)"
