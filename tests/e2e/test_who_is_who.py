"""Whose word counts: addresses, forwarders, the roster, and the limits that go with a client."""

import contextlib
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.forwarder import Forwarder, Header, host_of, version_1, version_2
from tests.e2e.harness import FAST, Peer, PeerAt, closed, connect, send
from tests.hosts import needs_ipv6
from tests.patience import PATIENCE

Join = Callable[..., list[Peer]]
REFUSED = "SELECT reason FROM v1_messages WHERE outcome = 'refused' ORDER BY message_id"


class ForwardedPeer(Peer):
    """A trainer behind a forwarder, which calls it by number."""

    def __init__(self, forwarder: Forwarder, number: int) -> None:
        self.forwarder = forwarder
        super().__init__(forwarder.port, number)

    def connect(self) -> socket.socket:
        assert isinstance(self.client_id, int)
        return self.forwarder.connect(self.client_id)


@pytest.mark.parametrize("header", [None, version_1, version_2], ids=["plain", "version 1", "version 2"])
def test_eight_trainers_through_one_forwarder(start: Start, header: Header | None) -> None:
    trusted = ("--trusted-proxy", "127.0.0.0/8, ::1") if header is not None else ()
    server = start("--num-rounds", "2", "--min-clients", "8", *FAST, *trusted)
    numbers = range(1, 9)
    with Forwarder(server.port, header) as forwarder, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(ForwardedPeer(forwarder, number)).join() for number in numbers]
        for _ in range(2):
            for peer in peers:
                peer.answer(1.0)
        for peer in peers:
            peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 16)]
    found = server.sql("SELECT DISTINCT client_id, peer_host, proxy_host FROM v1_connections ORDER BY 1")
    expected = [(str(n), host_of(n), "127.0.0.1") if header else (str(n), "127.0.0.1", None) for n in numbers]
    assert found == expected
    assert server.sql(REFUSED) == []


def test_a_proxy_header_is_believed_of_trusted_forwarders_only(start: Start) -> None:
    trusting = start("--num-rounds", "1", *FAST, "--trusted-proxy", "127.0.0.1")
    with connect(trusting.port) as peer:
        send(peer, b'{"header": "<METADATA>", "id": 1, "data_size": 5}')
        assert closed(peer)
    with PeerAt(trusting, 1, "127.0.0.9") as other:
        other.connection.sendall(version_1(1))
        assert closed(other.connection)
    trusting.wait_for_sql(f"{REFUSED} LIMIT 1 OFFSET 1")
    first, second = (reason for (reason,) in trusting.sql(REFUSED))
    assert first.startswith("no PROXY protocol header, from a --trusted-proxy")
    assert second.startswith("a PROXY protocol header, from an address that is not --trusted-proxy")
    hosts = trusting.sql("SELECT peer_host, proxy_host FROM v1_connections ORDER BY connection_id")
    assert hosts == [("127.0.0.1", None), ("127.0.0.9", None)]
    assert trusting.terminate() == 3


def test_an_upload_counts_from_the_address_that_registered(start: Start) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    with PeerAt(server, 1, "127.0.0.2").join() as one, PeerAt(server, 2, "127.0.0.3").join() as two:
        model = one.model()
        with PeerAt(server, 1, "127.0.0.3") as thief:
            thief.upload(model)
        with PeerAt(server, 1, "127.0.0.4") as thief:
            answer = thief.register()
        assert answer == {"header": "<ERROR>", "msg": "client 1 registered from another address before"}
        one.upload(model)
        two.answer()
        one.finished()
        two.finished()
    assert server.exit_code() == 0
    reasons = [reason for (reason,) in server.sql(REFUSED)]
    assert reasons == [
        "client 1 registered from 127.0.0.2, an upload from 127.0.0.3 does not count",
        "client 1 registered from another address before",
    ]
    assert server.sql("SELECT client_id, decision FROM v1_updates ORDER BY 1") == [("1", "accepted"), ("2", "accepted")]


@pytest.mark.parametrize("upload_from", ["same-address", "any"])
def test_a_client_comes_back_from_its_address_unless_any_will_do(start: Start, upload_from: str) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST, "--upload-from", upload_from)
    with PeerAt(server, 1, "127.0.0.2").join() as one, PeerAt(server, 2, "127.0.0.4").join():
        one.model()  # once the join window has closed: who leaves before that leaves the id too
        one.connection.close()
        server.wait_for_line("client 1 left: closed")
        with PeerAt(server, 1, "127.0.0.3") as elsewhere:
            answer = elsewhere.register()
            if upload_from == "any":
                assert answer["header"] == "<SUCCESS>"
            else:
                assert answer["msg"] == "client 1 registered from another address before"
                with PeerAt(server, 1, "127.0.0.2") as back:
                    back.join()
    assert server.terminate() == 3


def test_a_large_upload_from_where_nobody_registered_is_read_and_not_kept(start: Start) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST, "--max-update-size", "40000000")
    with PeerAt(server, 1, "127.0.0.2").join(), PeerAt(server, 9, "127.0.0.3") as stranger:
        send(stranger.connection, b"\x80\x04" + bytes(39_000_000))  # all of it is taken
        assert closed(stranger.connection)
        size, reason = server.wait_for_sql("SELECT bytes, reason FROM v1_messages WHERE outcome = 'refused'")[0]
        assert server.metrics()["flserver_inflight_bytes"] == 0
    assert (size, reason) == (39_000_010, "an upload, and no client has registered from 127.0.0.3")
    assert server.terminate() == 3


def test_a_roster(start: Start, tmp_path: Path) -> None:
    (tmp_path / "clients.csv").write_text("id,label\n1,Lund\n2,Uppsala\n3,\n")
    options = ("--num-rounds", "1", "--clients", "clients.csv", "--min-clients", "2", "--rejoin-timeout", "3600")
    server = start(*options, "--time-to-wait", "3600")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(server, number)).join() for number in (1, 2)]
        with Peer(server, 4) as other:
            answer = other.register()
        assert answer == {"header": "<ERROR>", "msg": "client 4 is not on the roster"}
        peers.append(stack.enter_context(Peer(server, 3)).join())
        for peer in peers:  # and nobody waited for an hour
            peer.answer()
        for peer in peers:
            peer.finished()
    assert server.exit_code() == 0
    assert server.sql(REFUSED) == [("client 4 is not on the roster",)]
    assert server.sql("SELECT client_id, label FROM v1_clients ORDER BY 1") == [
        ("1", "Lund"),
        ("2", "Uppsala"),
        ("3", None),
    ]


def test_who_is_absent_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "clients.csv").write_text("id,label\n1,Lund\n2,Uppsala\n3,Umeå\n")
    server = start("--num-rounds", "1", "--clients", "clients.csv", "--min-clients", "2", *FAST)
    server.wait_for_line(r"state: joining; not there yet: 1 \(Lund\), 2 \(Uppsala\), 3 \(Umeå\)")
    with Peer(server, 1).join() as one:
        server.wait_for_line(r"client 1 registered \(100 samples\); not there yet: 2 \(Uppsala\), 3 \(Umeå\)")
        server.wait_for_line(r"1 more client needed by .*; not there: 2 \(Uppsala\), 3 \(Umeå\)")
        with Peer(server, 2).join() as two:
            server.wait_for_line(
                r"a round needs 2 updates \(--min-updates; .*\); on the roster and not there: 3 \(Umeå\)"
            )
            for peer in (one, two):
                peer.answer()
            for peer in (one, two):
                peer.finished()
    assert server.exit_code() == 0


def test_a_roster_that_is_read_again_takes_effect_at_once(start: Start, tmp_path: Path) -> None:
    """Who is left out goes, with <FINISHED>; who was only waited for is not; a broken file changes nothing."""
    roster = tmp_path / "clients.csv"

    def hang_up(text: str) -> None:
        before = server.sql("SELECT COUNT(*) FROM v1_operator_events WHERE kind = 'reload'")[0][0]
        roster.write_text(text)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_sql("SELECT 1 FROM v1_operator_events WHERE kind = 'reload' LIMIT 1 OFFSET ?", before)

    roster.write_text("id\n1\n2\n3\n4\n")
    options = ("--clients", "clients.csv", "--min-clients", "2", "--time-to-wait", "3600")
    server = start("--num-rounds", "1", "--metrics-linger", str(PATIENCE), *options)
    with contextlib.ExitStack() as stack:
        one, two, three = (stack.enter_context(Peer(server, number)).join() for number in (1, 2, 3))
        hang_up('id,label\n1,"' + "x" * 200_000)
        server.wait_for_line("SIGHUP: nothing is changed: --clients .* is no CSV")
        hang_up("id\n1\n2\n3\n")  # 4 is not waited for any more: the round begins
        for peer in (one, two):
            peer.answer()
        three.model()
        hang_up("id\n1\n2\n")  # and nobody waits for 3, for whom the round's deadline is an hour away
        for peer in (one, two, three):
            peer.finished()
        server.process.send_signal(signal.SIGHUP)  # there is nobody left to let in
        server.process.terminate()
    assert server.exit_code() == 0
    assert server.sql("SELECT client_id, participation FROM v1_client_rounds ORDER BY 1") == [
        ("1", "answered"),
        ("2", "answered"),
        ("3", "dropped"),
    ]


def test_no_client_weighs_more_than_its_share_or_has_more_data_than_allowed(start: Start) -> None:
    limits = ("--max-weight-share", "0.5", "--max-data-size", "1000")
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST, *limits)
    with contextlib.ExitStack() as stack:
        with Peer(server, 9, data_size=1001) as big:
            answer = big.register()
        assert answer == {
            "header": "<ERROR>",
            "msg": "data_size 1001 is more than --max-data-size 1000",
        }
        sizes = {1: 100, 2: 100, 3: 201}
        peers = [stack.enter_context(Peer(server, n, data_size=size)).join() for n, size in sizes.items()]
        for peer in peers:
            peer.answer()
        for peer in peers:
            peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT client_id, decision, reason, weight FROM v1_updates ORDER BY 1") == [
        ("1", "accepted", None, 0.5),
        ("2", "accepted", None, 0.5),
        ("3", "rejected", "weight_share: 201 of the 401 samples invited is more than a share of 0.5", None),
    ]


def test_a_second_answer_that_differs_is_said_to_differ(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    a, b = join(server, "a", "b")
    answered = a.answer(0.5)
    a.upload(answered)
    answered.fc1.bias.data.add_(1)  # type: ignore[union-attr, operator]
    a.upload(answered)
    b.answer(0.5)
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, reason FROM v1_updates WHERE client_id = 'a' ORDER BY update_id") == [
        ("accepted", None),
        ("duplicate", "the same update as the one that answered round 1"),
        ("duplicate", "another update than the one that answered round 1"),
    ]
    server.wait_for_line("WARNING update of client a duplicate: another update")


def first_closed(connections: list[socket.socket]) -> socket.socket:
    """Which of them the server ends first; the others are left in the list."""
    ended = select.select(connections, [], [], PATIENCE)[0][0]
    assert closed(ended)
    connections.remove(ended)
    return ended


def test_an_address_has_a_limit_of_its_own(start: Start) -> None:
    """Of connections that come at once it is not said whose place is taken first."""
    limits = ("--max-connections-per-address", "2", "--max-clients-per-address", "2")
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST, *limits)
    with contextlib.ExitStack() as stack:

        def come(number: int, host: str = "127.0.0.2") -> PeerAt:
            return stack.enter_context(PeerAt(server, number, host))

        one, two = come(1).join(), come(2, "127.0.0.3").join()
        silent = [come(number).connection for number in (8, 9)]
        first_closed(silent)
        third = come(3).join()
        assert closed(silent.pop()), "the other one makes room for a client"
        uploads = [come(7).connection for _ in range(3)]  # two of them may be uploads
        first_closed(uploads)
        for peer in (one, third, two):
            peer.answer()
        for peer in (one, third, two):
            peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT COUNT(*) FROM v1_updates WHERE decision = 'accepted'") == [(3,)]
    everybody = server.sql("SELECT connection_id, client_id, purpose, close_reason FROM v1_connections")
    made_room = [row for row in everybody if row[1] is None and row[3].startswith("made room")]
    assert len(made_room) >= 4, everybody  # the three, and one or two for the uploads
    assert not [row for row in everybody if row[3].startswith("not served")], everybody


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_listening_on_a_network_without_tls_must_be_asked_for(start: Start, host: str) -> None:
    server = start("--num-rounds", "1", "--host", host)
    assert server.exit_code() == 2
    assert len(server.lines) == 1
    assert (
        f"--host {host}: without TLS this needs --insecure. Trainers in the field run what they are sent" in server.log
    )
    assert not server.db.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_insecure_listens_everywhere_and_warns(start: Start, host: str) -> None:
    server = start("--num-rounds", "1", "--host", host, "--insecure", "--min-clients", "1", *FAST)
    server.wait_for_line("--insecure: an attacker between the trainers and this server")
    with Peer(server, 1) as peer:
        peer.join()
    assert server.terminate() == 3
    assert server.sql("SELECT peer_host FROM v1_connections") == [("127.0.0.1",)], "IPv4 as such, also on ::"


class PeerOverIpv6(Peer):
    """A trainer that connects to ::1."""

    def connect(self) -> socket.socket:
        return socket.create_connection(("::1", self.port), timeout=PATIENCE)


@needs_ipv6
@pytest.mark.parametrize("host", ["[::1]", "::1"])
def test_a_round_over_ipv6(start: Start, host: str) -> None:
    server = start("--num-rounds", "1", "--host", host, *FAST)
    with PeerOverIpv6(server, 1) as peer:
        peer.join().answer()
        peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT DISTINCT peer_host FROM v1_connections") == [("::1",)]
    assert server.sql("SELECT client_id, decision FROM v1_updates") == [("1", "accepted")]
