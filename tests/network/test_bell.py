"""A bell wakes who polls it, once for any number of rings, and costs one descriptor where there is eventfd."""

import os
import select
from collections.abc import Iterator

import pytest

from flserver.network import bell as bells
from flserver.network.bell import Bell
from tests.conftest import open_descriptors


@pytest.fixture(params=[True, False], ids=["eventfd", "socket-pair"])
def bell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bell]:
    if request.param and not bells.HAS_EVENTFD:
        pytest.skip("this system has no eventfd")
    monkeypatch.setattr(bells, "HAS_EVENTFD", request.param)
    bell = Bell()
    yield bell
    bell.close()


def rings(bell: Bell) -> bool:
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    return bool(poll.poll(0))


def test_it_is_heard_until_it_is_hushed(bell: Bell) -> None:
    assert not rings(bell)
    for _ in range(2):
        bell.ring()
        bell.ring()
        assert rings(bell)
        bell.hush()
        assert not rings(bell)
    bell.hush()  # without a ring it does not wait for one


def test_who_rings_never_waits(bell: Bell) -> None:
    for _ in range(20_000):  # more than a socket pair holds
        bell.ring()
    assert rings(bell)


def test_an_eventfd_takes_any_number_of_rings() -> None:
    bell = Bell()
    os.write(bell.fileno(), (2**64 - 2).to_bytes(8, "little"))  # as many as it counts
    bell.ring()
    assert rings(bell)
    bell.close()


def test_one_that_is_closed_does_not_write_into_what_has_its_descriptor_now() -> None:
    bell = Bell()
    reading, writing = os.pipe()
    was = bell.fileno()
    bell.close()
    os.dup2(writing, was)
    try:
        bell.ring()
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 8)
    finally:
        for descriptor in {reading, writing, was}:
            os.close(descriptor)


def test_a_bell_has_as_many_descriptors_as_are_counted_for_it() -> None:
    before = open_descriptors()
    bell = Bell()
    assert len(open_descriptors() - before) == bells.DESCRIPTORS
    bell.close()
    assert open_descriptors() == before
