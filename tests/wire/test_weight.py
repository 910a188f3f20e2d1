"""What reading a pickle may take, and what its reader is told of that."""

import contextlib
import tracemalloc

import pytest

from flserver.errors import PickleRefused
from flserver.wire.machine import SLICE
from flserver.wire.pickles import PickleLimits, read
from tests.wire.pickle_opcodes import name, pickled, text

NESTED = {
    "tuples": (b"", b"\x85"),
    "lists": (b"]", b"a"),
    "dicts": (b"}" + text("k"), b"s"),
    "calls": (name("a", "b"), b"\x85R"),
    "states": (name("a", "b") + b")\x81", b"b"),
}


@pytest.mark.parametrize("kind", NESTED)
def test_containers_go_no_deeper_inside_each_other_than_the_limit(kind):
    opening, closing = NESTED[kind]
    a_level = 2 if kind == "calls" else 1  # a call is made with a tuple
    limits = PickleLimits(nesting=60)
    for depth, deeper in ((60, False), (61, True)):
        levels = (depth - 1) // a_level
        body = pickled(opening * levels + b")" + closing * levels)
        if deeper:
            with pytest.raises(PickleRefused, match="nests too deeply"):
                read(body, limits)
        else:
            read(body, limits)


def test_what_was_thrown_away_makes_nothing_deeper():
    """Its place in memory is used again, and what was known of it must not be."""
    thrown_away = b")\x85\x85\x85\x85" + b"0"
    read(pickled(b"](" + thrown_away * 5_000 + (b")\x85\x85" + b"}0") * 5_000 + b"e"), PickleLimits(nesting=6))


def test_no_more_values_are_kept_than_the_limit():
    assert read(pickled(b"N" + b"\x94" * 50), PickleLimits(memo=50)) is None
    with pytest.raises(PickleRefused, match="too many memo entries"):
        read(pickled(b"N" + b"\x94" * 51), PickleLimits(memo=50))


HEAVY = {
    "lists": b"]" * 20_000,
    "dicts": b"}" * 20_000,
    "tuples": b"](" + (b")" + b"\x85" * 900) * 20 + b"e",
    "names": b"](" + b"".join(b"ca%d\nb%d\n" % (i, i) for i in range(20_000)) + b"e",
    "memo entries": b"N" + b"\x94" * 20_000,
    "keys": b"}(" + b"".join(text(f"{i:06}") + b"N" for i in range(10_000)) + b"u",
    "texts": b"](" + text("\U0001f600" + "a" * 6_000) * 200 + b"e",
    "integers": b"](" + (b"\x8a\xfa" + b"\x01" * 250) * 20_000 + b"e",
    "bytes": b"](" + b"C\x01a" * 20_000 + b"e",
    "objects": b"](" + b"ca\nb\n)\x81" * 10_000 + b"e",
    "calls": b"](" + b"ca\nb\n)R" * 10_000 + b"e",
}


@pytest.mark.parametrize("kind", HEAVY)
def test_ticks_tell_of_no_less_memory_than_is_taken(kind):
    told = []
    body = pickled(HEAVY[kind])
    tracemalloc.start()
    try:
        with contextlib.suppress(PickleRefused):
            read(body, PickleLimits(), told.append)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken > 500_000
    assert taken < sum(told) < 4 * taken


def test_ticks_come_again_and_again_and_what_one_raises_ends_the_reading():
    told = []
    read(pickled(b"](" + b"N" * 10_000 + b"e"), PickleLimits(), told.append)
    assert len(told) >= 10_000 // SLICE

    class Enough(Exception):
        pass

    def third(size):
        told.append(size)
        if len(told) == 3:
            raise Enough

    told.clear()
    with pytest.raises(Enough):
        read(pickled(b"](" + b"N" * 10_000 + b"e"), PickleLimits(), third)
