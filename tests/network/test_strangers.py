"""Who takes no part has so many rows a minute, and is a number beyond that: on record before it is answered."""

import threading
from collections.abc import Callable

import pytest

from flserver import errors
from flserver import events as e
from flserver.errors import ConnectionLost, FlserverError, PeerError, StoreError
from flserver.events.words import StrangerReason
from flserver.network import strangers as module
from flserver.network.strangers import ELSEWHERE, Kind, Numbers, Strangers, minute_of, prefix_of, reason_of
from tests.patience import PATIENCE, eventually
from tests.recorder import RecordingRecorder, raising


class Clock:
    """What ``utc_now`` says, set by hand."""

    def __init__(self) -> None:
        self.now = "2026-01-31T09:00:59.900000Z"

    def __call__(self) -> str:
        return self.now

    def next_minute(self) -> None:
        self.now = "2026-01-31T09:01:00.000000Z"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "utc_now", clock)
    return clock


@pytest.fixture
def recorder() -> RecordingRecorder:
    return RecordingRecorder()


@pytest.fixture
def strangers(recorder: RecordingRecorder, clock: Clock) -> Strangers:
    return Strangers(recorder, 3)


def refused(strangers: Strangers, host: str = "10.0.0.7") -> Kind:
    """One whose registration was refused."""
    return strangers.kind(host, "registration", "register", "<METADATA>", "refused")


# --- where from ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "prefix"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("192.0.2.255", "192.0.2.0/24"),
        ("192.0.3.7", "192.0.3.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ELSEWHERE),
        ("a socket", ELSEWHERE),
    ],
)
def test_a_network_is_told_by_its_prefix(host: str, prefix: str) -> None:
    assert prefix_of(host) == prefix


def test_a_minute_is_told_by_its_beginning() -> None:
    assert minute_of("2026-01-31T09:00:59.900000Z") == "2026-01-31T09:00:00.000000Z"


def leaves(kind: type[FlserverError]) -> list[type[FlserverError]]:
    return [kind, *(leaf for below in kind.__subclasses__() for leaf in leaves(below))]


def test_every_refusal_has_its_reason() -> None:
    found: dict[str, StrangerReason] = {
        kind.__name__: reason_of(kind("x"), spoke=True)
        for kind in leaves(PeerError)
        if kind.__module__ == errors.__name__ and issubclass(kind, PeerError)
    }
    assert found == {
        "PeerError": "not_served",
        "Refused": "not_served",
        "FrameRefused": "frame",
        "FrameTooLong": "size",
        "MessageRefused": "message",
        "PickleRefused": "pickle",
        "HandshakeRefused": "handshake",
        "NotAskedFor": "not_served",  # a client of ours: no stranger ever is
        "NoRoom": "size",
        "TensorsTooLarge": "size",
        "IdentityRefused": "identity",
        "RegistrationRefused": "registration",
        "ConnectionLost": "broken_off",
    }
    assert reason_of(ConnectionLost("x"), spoke=False) == "silent"


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_prefix_has_so_many_rows_a_minute(strangers: Strangers, clock: Clock) -> None:
    places = [strangers.take_place(f"10.0.0.{number}") for number in range(5)]
    assert [place is not None for place in places] == [True] * 3 + [False] * 2
    assert strangers.take_place("10.0.1.1") is not None, "another prefix"
    clock.next_minute()
    assert strangers.take_place("10.0.0.1") is not None


def test_a_place_that_was_given_back_is_anothers_in_its_minute_only(strangers: Strangers, clock: Clock) -> None:
    one, *_ = [strangers.take_place("10.0.0.1") for _ in range(3)]
    assert one is not None
    strangers.give_back(one)
    assert strangers.take_place("10.0.0.1") is not None
    assert strangers.take_place("10.0.0.1") is None
    clock.next_minute()
    strangers.give_back(one)
    assert [strangers.take_place("10.0.0.1") is not None for _ in range(4)] == [True] * 3 + [False]


def test_all_prefixes_together_have_ten_times_as_many(strangers: Strangers, clock: Clock) -> None:
    places = [strangers.take_place(f"10.0.{number}.1") for number in range(40)]
    assert sum(place is not None for place in places) == 30
    assert places[0] is not None
    strangers.give_back(places[0])
    assert strangers.take_place("10.9.9.9") is not None
    clock.next_minute()
    assert strangers.take_place("10.0.0.1") is not None


def test_a_limit_of_none_has_no_rows(recorder: RecordingRecorder) -> None:
    assert Strangers(recorder, 0).take_place("10.0.0.1") is None


# --- sums ------------------------------------------------------------------------------------------------------------


def test_a_kind_is_one_event_when_its_minute_is_over(
    strangers: Strangers, recorder: RecordingRecorder, clock: Clock
) -> None:
    for _ in range(1000):
        strangers.count(refused(strangers), Numbers(1, 1, 60, 1, 0, 60, 80))
    strangers.count(refused(strangers, "10.0.1.7"), Numbers(connections=1))
    strangers.put_on_record()
    assert recorder.events == []
    clock.next_minute()
    strangers.put_on_record()
    strangers.put_on_record()
    one, other = recorder.of(e.StrangersSummed)
    assert (one.minute, one.prefix, one.reason) == ("2026-01-31T09:00:00.000000Z", "10.0.0.0/24", "registration")
    assert (one.connections, one.messages, one.message_bytes, one.answers) == (1000, 1000, 60_000, 1000)
    assert (one.failed_answers, one.bytes_in, one.bytes_out) == (0, 60_000, 80_000)
    assert (other.prefix, other.connections) == ("10.0.1.0/24", 1)
    assert recorder.first == [False, False]


def test_prefixes_without_end_are_counted_together(
    strangers: Strangers, recorder: RecordingRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KINDS", 5)
    for number in range(200):
        strangers.count(refused(strangers, f"10.0.{number}.1"), Numbers(connections=1))
    strangers.count(refused(strangers, "10.0.3.9"), Numbers(connections=1))
    strangers.close()
    found = {event.prefix: event.connections for event in recorder.of(e.StrangersSummed)}
    assert found == {f"10.0.{number}.0/24": 1 + (number == 3) for number in range(5)} | {ELSEWHERE: 195}


def test_the_thread_puts_them_on_record_at_each_minutes_end(
    strangers: Strangers, recorder: RecordingRecorder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MINUTE", 0.01)
    strangers.count(refused(strangers), Numbers(connections=1))
    clock.next_minute()
    strangers.start()
    recorder.wait_for(e.StrangersSummed)
    strangers.count(refused(strangers), Numbers(connections=2))
    strangers.close()
    assert [event.connections for event in recorder.of(e.StrangersSummed)] == [1, 2]
    assert "strangers" not in {thread.name for thread in threading.enumerate()}


def test_a_record_that_has_failed_does_not_keep_it_from_ending(
    strangers: Strangers, recorder: RecordingRecorder
) -> None:
    recorder.before[e.StrangersSummed] = raising(StoreError("the disk is full"))
    strangers.count(refused(strangers), Numbers(connections=1))
    strangers.close()
    with pytest.raises(StoreError):
        strangers.announce(refused(strangers))


# --- before an answer ------------------------------------------------------------------------------------------------


def test_the_first_of_a_kind_is_durable_at_once_and_the_others_with_the_minute(
    strangers: Strangers, recorder: RecordingRecorder, clock: Clock
) -> None:
    for number in range(50):
        strangers.count(refused(strangers), Numbers(connections=1))
        strangers.announce(refused(strangers))
        assert recorder.durable == len(recorder.events) == 1, number
    clock.next_minute()
    strangers.count(refused(strangers), Numbers(connections=1))
    strangers.announce(refused(strangers))
    assert recorder.durable == 2
    strangers.close()
    found = [(event.minute[14:16], event.connections) for event in recorder.of(e.StrangersSummed)]
    assert sorted(found) == [("00", 1), ("00", 49), ("01", 1)]


def test_one_whose_number_the_minutes_end_took_just_now_is_announced_all_the_same(
    strangers: Strangers, recorder: RecordingRecorder
) -> None:
    strangers.announce(refused(strangers))
    assert [event.connections for event in recorder.of(e.StrangersSummed)] == [0]
    assert recorder.durable == 1


def test_who_comes_while_the_first_is_being_recorded_waits_for_it(
    strangers: Strangers, recorder: RecordingRecorder
) -> None:
    go_on = threading.Event()
    recorder.before[e.StrangersSummed] = lambda: go_on.wait(PATIENCE)
    answered: list[int] = []

    def announce(number: int) -> None:
        strangers.count(refused(strangers), Numbers(connections=1))
        strangers.announce(refused(strangers))
        answered.append(recorder.durable)

    threads = [threading.Thread(target=announce, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    waiting: Callable[[], bool] = lambda: sum(n.connections for n in [*strangers._sums.values()]) == 7  # noqa: E731
    eventually(waiting)
    assert answered == []
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert answered == [1] * 8
