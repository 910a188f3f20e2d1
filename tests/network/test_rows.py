"""Where a connection's events go: on record as they come, or held until it is known what it became."""

from collections.abc import Callable
from itertools import count

import pytest
import torch

from flserver import events as e
from flserver.network.preamble import Preamble, networks
from flserver.network.record import ConnectionRecord
from tests.e2e.forwarder import host_of, version_1
from tests.network.frames import framed
from tests.network.served import FORWARDER, STRANGER, Line, Network, linear, metadata
from tests.patience import PATIENCE


def summed(network: Network) -> list[tuple[str, str, str, int, int, int]]:
    """What is on record once nobody comes any more."""
    network.strangers.close()
    return [
        (s.prefix, s.reason, s.purpose, s.connections, s.messages, s.answers)
        for s in network.recorder.of(e.StrangersSummed)
    ]


def asked(network: Network, body: bytes) -> Line:
    """Somebody who sends that, is answered, and goes."""
    line = network.connect(STRANGER).send(body)
    line.answer()
    return line.hang_up().ended()


def test_beyond_the_limit_strangers_are_counted_by_what_was_wrong(network_of: Callable[..., Network]) -> None:
    network = network_of(strangers_per_minute=1)
    network.registered("a")
    assert network.connect(STRANGER).hang_up().ended().story() != []
    for _ in range(2):
        line = network.connect(STRANGER)
        line.trainer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert line.ended().story() == []
        assert asked(network, metadata("b", data_size=0)).story() == []
        assert asked(network, metadata("a")).story() == []
        assert network.connect(STRANGER).hang_up().ended().story() == []
        cut = network.connect(STRANGER)
        cut.trainer.sendall(framed(metadata("a"))[:9])
        assert cut.hang_up().ended().story() == []
    found = summed(network)
    assert sorted(found) == sorted(
        [
            ("10.0.0.0/24", "broken_off", "unknown", 2, 2, 0),
            ("10.0.0.0/24", "frame", "unknown", 2, 2, 0),
            ("10.0.0.0/24", "identity", "register", 1, 1, 0),
            ("10.0.0.0/24", "identity", "register", 1, 1, 2),
            ("10.0.0.0/24", "message", "register", 1, 1, 0),
            ("10.0.0.0/24", "message", "register", 1, 1, 2),
            ("10.0.0.0/24", "silent", "unknown", 2, 0, 0),
        ]
    )


def test_a_stranger_beyond_the_limit_is_answered_once_its_kind_is_durable(network_of: Callable[..., Network]) -> None:
    network = network_of(strangers_per_minute=0)
    for _ in range(3):
        line = network.connect(STRANGER).send(metadata("b", data_size=0))
        assert line.answer()["header"] == "<ERROR>"
        (kind,) = [event for event in line.ours.seen_at(b"<ERROR>") if isinstance(event, e.StrangersSummed)]
        assert (kind.connections, kind.messages, kind.reason) == (1, 1, "message")
        line.hang_up().ended()
    network.strangers.close()
    told = network.recorder.of(e.StrangersSummed)
    assert [sum(getattr(s, name) for s in told) for name in ("connections", "messages", "answers")] == [3, 3, 3]
    assert sum(s.bytes_in for s in told) == sum(s.message_bytes for s in told) == 3 * (8 + len(metadata("b", 0)))
    assert sum(s.bytes_out for s in told) > 3 * 40


def test_who_registers_has_all_its_rows_in_their_order(network_of: Callable[..., Network]) -> None:
    network = network_of(strangers_per_minute=0)
    line = network.registered("a")
    assert line.story() == ["opened", "in <METADATA> ok", "registered a", "out <SUCCESS> ok"]
    seen = [type(event) for event in line.ours.seen_at(b"<SUCCESS>")]
    assert seen == [e.ConnectionOpened, e.MessageReceived, e.ClientRegistered]
    line.hang_up().ended()
    assert len(line.story()) == 6
    assert summed(network) == []


@pytest.mark.parametrize("limit", [0, 1])
def test_an_update_has_all_its_rows_whatever_is_decided_of_it(network_of: Callable[..., Network], limit: int) -> None:
    network = network_of(strangers_per_minute=limit)
    line = network.registered("a")
    network.begin()
    line.message()
    for decision in ("counts", "duplicate"):
        story = [told.partition(":")[0] for told in network.uploaded("a", linear()).story()]
        assert story == ["opened", "in <MODEL> ok", f"update {decision}", "closed, upload of a"]
    assert network.connect(STRANGER).ours.sends == []
    assert len(network.recorder.of(e.ConnectionOpened)) == 3 + limit, "who takes part has nobody's place"


def test_an_update_of_nobody_is_a_stranger(network_of: Callable[..., Network]) -> None:
    network = network_of(strangers_per_minute=0)
    network.registered("a")
    assert network.uploaded("b", linear()).story() == []
    assert network.uploaded("a", linear(), STRANGER).story() == []
    assert [row[:4] for row in summed(network)] == [
        ("10.0.0.0/24", "registration", "upload", 1),
        ("10.0.0.0/24", "identity", "unknown", 1),
    ]


def test_behind_a_forwarder_it_is_the_peers_network_that_counts(network_of: Callable[..., Network]) -> None:
    preamble = Preamble(tls=None, proxies=networks("127.0.0.1"), seconds=PATIENCE)
    network = network_of(preamble=preamble, strangers_per_minute=1)
    stories = [network.connect(FORWARDER, sent=version_1(number)).hang_up().ended().story() for number in (1, 1)]
    assert [len(story) for story in stories] == [3, 0]
    assert stories[0][:2] == ["opened", f"identified {host_of(1)} behind 127.0.0.1 by tcp"]
    headless = network.connect(FORWARDER, sent=b"GET / HTTP/1.1\r\n\r\n").ended()
    assert len(headless.story()) == 3, "the forwarder's own network has its row"
    assert network.connect(FORWARDER, sent=b"GET / HTTP/1.1\r\n\r\n").ended().story() == []
    found = {(prefix, reason) for prefix, reason, *_ in summed(network)}
    assert found == {(f"{host_of(1).rpartition('.')[0]}.0/24", "silent"), ("127.0.0.0/24", "frame")}


# --- while the record is crowded -------------------------------------------------------------------------------------


def test_while_the_record_is_crowded_what_rounds_rest_on_goes_first(network: Network) -> None:
    network.recorder.full = True
    line = network.connect()
    line.send(metadata("a"))
    network.admitted("a", line)
    assert set(network.recorder.first) == {True}
    network.begin()
    line.message()
    network.uploaded("a", linear())
    assert set(network.recorder.first) == {True}, "its answer"
    before = len(network.recorder.events)
    again = network.uploaded("a", linear()).story()
    assert [told.partition(":")[0] for told in again] == [
        "opened", "in <MODEL> ok", "update duplicate", "closed, upload of a",
    ]  # fmt: skip
    assert network.recorder.first[before:] == [False] * 4, "a duplicate waits for its turn"


def test_while_the_record_is_crowded_a_stranger_has_its_rows_when_it_has_gone(network: Network) -> None:
    network.recorder.full = True
    line = network.connect(STRANGER)
    line.trainer.sendall(b"\0")
    assert line.hang_up().ended().story()[0] == "opened"
    assert network.recorder.first == [False] * 3
    assert asked(network, metadata("b", data_size=0)).story()[2].startswith("out <ERROR> ok")


def test_whoever_accepts_connections_does_not_wait_for_room_in_the_record(network: Network) -> None:
    network.recorder.full = True
    record = ConnectionRecord(network.recorder, network.strangers, 7, count(1))
    record.opened(STRANGER)
    record.closed("not served: full", "not_served")
    assert network.recorder.events == []
    assert summed(network) == [("10.0.0.0/24", "not_served", "unknown", 1, 0, 0)]


# --- what is kept of what they say -----------------------------------------------------------------------------------


def test_what_is_beyond_the_budget_of_metrics_and_info_is_not_kept_and_the_record_says_so(
    network_of: Callable[..., Network],
) -> None:
    network = network_of(json=1 << 16)
    info = {"lr": 0.5} | {f"note {number}": "é" * 200 for number in range(20)}
    line = network.connect().send(metadata("a", info=info, more="x" * 2000))
    network.admitted("a", line)
    (registered,), (message,) = line.of(e.ClientRegistered), line.of(e.MessageReceived)
    kept = len(registered.info)
    assert (message.outcome, message.reason) == ("ok", f"{kept} of 21 fields of info are kept: more than 8192 bytes")
    assert list(registered.info) == list(info)[:kept]
    assert kept == 1 + 8192 // 1214
    assert registered.metadata["more"] == "x" * 2000
    network.begin()
    line.message()
    metrics = {"é" * 60 + f"{number:03}": {"received": 1.0, "trained": 2.0} for number in range(32)}
    upload = network.uploaded("a", torch.nn.Linear(40, 40), metrics=metrics)
    (update,), (message,) = upload.of(e.UpdateReceived), upload.of(e.MessageReceived)
    kept = len(update.metrics)
    assert (update.decision, message.reason) == (None, f"{kept} of 64 metrics are kept: more than 8192 bytes")
    assert 10 < kept < 64
    assert (update.metrics[0].measured_on, update.metrics[1].measured_on) == ("received", "trained")


def test_as_many_metrics_as_are_read_are_kept_where_their_names_are_names(network: Network) -> None:
    line = network.registered("a")
    network.begin()
    line.message()
    metrics = {f"validation/accuracy/site-{number:02}": {"received": 1.0, "trained": 2.0} for number in range(32)}
    upload = network.uploaded("a", linear(), metrics=metrics)
    assert len(upload.of(e.UpdateReceived)[0].metrics) == 64
    assert upload.of(e.MessageReceived)[0].reason is None
    again = network.uploaded("a", linear(), metrics=metrics)
    assert again.of(e.UpdateReceived)[0].decision == "duplicate"
    assert again.of(e.UpdateReceived)[0].metrics == ()
