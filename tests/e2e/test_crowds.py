"""Many peers, and few that claim much: what they cost the others."""

import contextlib
import pickle
import re
import resource
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.certificates import Authority
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, NeuralNet, Peer, PeerAt, ServerProcess, closed, connect, field_module, send
from tests.e2e.tls_peers import TlsPeer, served, trusting
from tests.patience import PATIENCE, eventually

Join = Callable[..., list[Peer]]


def test_idle_connections_make_room_for_trainers(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", "--max-connections", "8", *FAST)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(server.port)) for _ in range(8)]
        server.wait_for_line("state: joining")
        a, b = join(server, "a", "b")
        assert closed(idle[0])
        assert closed(idle[1])
        more = [stack.enter_context(connect(server.port)) for _ in range(20)]
        assert closed(more[0])
        for peer in (a, b):
            peer.answer()
        for peer in (a, b):
            peer.finished()
    assert server.exit_code() == 0
    assert "Traceback" not in server.log
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE closed_at IS NULL") == [(0,)]
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE purpose = 'unknown'")[0][0] >= 20


def test_where_the_places_of_clients_are_all_that_is_left_a_stranger_is_not_served_and_has_a_row(
    start: Start, join: Join
) -> None:
    server = start("--num-rounds", "1", "--min-clients", "4", "--max-connections", "8", *FAST)
    peers = join(server, *range(4))
    with contextlib.ExitStack() as stack:
        for peer in peers:
            stack.enter_context(peer.connect())
        with PeerAt(server, 9, "127.0.0.2") as stranger:
            assert closed(stranger.connection)
        ((reason,),) = server.wait_for_sql("SELECT close_reason FROM v1_connections WHERE peer_host = '127.0.0.2'")
        assert reason == "not served: 8 connections are open: 8 from 127.0.0.1"
        server.wait_for_line("no session for 127.0.0.2: 8 connections are open: 8 from 127.0.0.1")
        for peer in peers:
            peer.answer()
        for peer in peers:
            peer.finished()
    assert server.exit_code() == 0


def test_five_hundred_idle_fifty_slow_and_a_port_scan_at_once(start: Start, join: Join) -> None:
    """Nothing of the honest is refused, and their rounds go on while all of it is there."""
    options = ("--metrics-linger", str(PATIENCE), "--strangers-per-minute", "1000000")
    server = start("--num-rounds", "5", "--min-clients", "3", *options, *FAST)
    peers = join(server, "a", "b", "c")
    scans = [b"", b"\0", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"SSH-2.0-scan\r\n"]
    stop, scanned = threading.Event(), threading.Event()

    def drip(slow: list[socket.socket]) -> None:
        body = (2000).to_bytes(8, "big") + b"\x80\x04" + bytes(2000)
        for byte in body:
            for sock in slow:
                sock.send(bytes([byte]))
            if stop.wait(0.2):
                return

    def scan() -> None:
        for number in range(300):
            if stop.is_set():
                return
            with connect(server.port) as probe:
                probe.sendall(scans[number % len(scans)])
                if number % 2:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        scanned.set()

    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(connect(server.port))
        slow = [stack.enter_context(connect(server.port)) for _ in range(50)]
        server.wait_for_sql("SELECT 1 FROM v1_connections LIMIT 1 OFFSET 552")
        threads = [threading.Thread(target=drip, args=(slow,)), threading.Thread(target=scan)]
        for thread in threads:
            thread.start()
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(stop.set)
        for number in range(5):
            assert number < 4 or scanned.wait(PATIENCE)
            for peer in peers:
                peer.answer()
        for peer in peers:
            peer.finished()
        # The sessions of the others end with the run.
        assert server.metrics()["flserver_open_connections_limit"] == min(4096, (descriptors() - 160) // 2)
    server.process.terminate()
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 15)]
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE closed_at IS NULL") == [(0,)]
    honest = "SELECT COUNT(*) FROM v1_messages WHERE client_id IS NOT NULL AND outcome <> 'ok'"
    assert server.sql(honest) == [(0,)]
    refused = "SELECT COUNT(*) FROM v1_messages WHERE outcome = 'refused' AND client_id IS NULL"
    assert server.sql(refused)[0][0] > 100
    assert "Traceback" not in server.log


def test_many_that_claim_much_and_stall_do_not_starve_the_honest(start: Start, join: Join) -> None:
    """Room is counted by what has arrived: a hundred claims of ten megabytes each hold nobody up."""
    options = ("--model", "torchvision:squeezenet1_1", "--receive-memory", "1", "--max-update-size", "10000000")
    server = start("--num-rounds", "2", "--min-clients", "2", *options, *FAST)
    a, b = join(server, "a", "b")
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stalled = stack.enter_context(connect(server.port))
            stalled.sendall((10_000_000).to_bytes(8, "big") + b"\x80\x04" + bytes(200_000))
        for _ in range(2):
            for peer in (a, b):
                peer.answer()
        for peer in (a, b):
            peer.finished()
        memory = peak_memory(server)
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 4)]
    # torch and the model's own buffers are some 500 MB; what was claimed is a thousand more.
    assert memory < 1000 * 2**20


def descriptors() -> int:
    """How many a process may have, at most."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def wait_for_bytes(server: ServerProcess, count: int) -> None:
    """Until so many bytes of updates have come in."""
    eventually(lambda: server.metrics()["flserver_inflight_bytes"] >= count)


def peak_memory(server: ServerProcess) -> int:
    """Bytes of memory that belong to the process and to no file, at most so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)[1])  # type: ignore[index]


def test_many_names_of_one_large_tensor_are_not_looked_at(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST)
    a, b, c = join(server, "a", "b", "c")
    bomb = NeuralNet()
    shared = torch.nn.Parameter(torch.zeros(784, 10))
    for i in range(400):
        bomb.register_parameter(f"w{i}", shared)
    c.model()
    with field_module():
        body = pickle.dumps({"header": "<MODEL>", "id": "c", "model": bomb})
    assert len(body) < 120_000
    for claimed in (b"c", b"z"):  # a participant, and somebody who never registered
        with connect(server.port) as peer:
            send(peer, body.replace(b"\x8c\x01c", b"\x8c\x01" + claimed))
            assert closed(peer)
    c.connection.close()
    for peer in (a, b):
        peer.answer()
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    reasons = server.sql("SELECT reason FROM v1_messages WHERE outcome = 'refused' ORDER BY message_id")
    assert "hold more than" in reasons[0][0]
    assert "has not registered" in reasons[1][0]
    decided = server.sql("SELECT client_id, decision FROM v1_updates ORDER BY client_id")
    assert decided == [("a", "accepted"), ("b", "accepted"), ("c", "rejected")]


@pytest.mark.parametrize("flood_from", ["127.0.0.1", "127.0.0.2", "127.0.0.3"])
def test_a_flood_does_not_cut_an_honest_upload(start: Start, flood_from: str) -> None:
    """From the trainer's own address, from that of another client, from elsewhere: others make room."""
    options = ("--max-connections", "40", "--strangers-per-minute", "1000000")
    server = start("--num-rounds", "1", "--min-clients", "2", *options, *FAST)
    with PeerAt(server, 1, "127.0.0.1").join() as honest, PeerAt(server, 66, "127.0.0.2").join() as other:
        body = honest.body(honest.model())
        frame = len(body).to_bytes(8, "big") + body
        with honest.connect() as upload, contextlib.ExitStack() as stack:
            upload.sendall(frame[:2000])
            for _ in range(200):
                flood = socket.create_connection(("127.0.0.1", server.port), PATIENCE, (flood_from, 0))
                stack.enter_context(flood).sendall(b"\0")
            server.wait_for_sql("SELECT 1 FROM v1_connections WHERE close_reason LIKE 'made room%' LIMIT 1 OFFSET 150")
            upload.sendall(frame[2000:])
            upload.shutdown(socket.SHUT_WR)
            assert upload.recv(1) == b"", "read to its end"
        other.answer()
        for peer in (honest, other):
            peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT client_id, decision FROM v1_updates ORDER BY 1") == [
        ("1", "accepted"),
        ("66", "accepted"),
    ]


def test_under_mutual_tls_no_flood_of_another_participant_reaches_an_upload(start: Start, tmp_path: Path) -> None:
    """One whose uploads bring more than an honest one has brought, from the same address, and some that are silent."""
    authority = Authority(tmp_path / "ca")
    options = ("--max-connections", "16", "--strangers-per-minute", "1000000", *served(authority, mutual=True))
    server = start("--num-rounds", "1", "--min-clients", "3", *options, *FAST)
    contexts = {client: trusting(authority, authority.client(client)) for client in "12m"}
    with contextlib.ExitStack() as stack:
        one, two, mallory = (stack.enter_context(TlsPeer(server, c, context)).join() for c, context in contexts.items())
        body = one.body(one.model())
        frame = len(body).to_bytes(8, "big") + body
        with one.connect() as upload:
            upload.sendall(frame[:2000])
            for number in range(60):
                with contextlib.suppress(OSError):
                    flood = stack.enter_context(mallory.connect())
                    flood.sendall(frame[: 9000 * (number % 2)])
            server.wait_for_sql("SELECT 1 FROM v1_connections WHERE close_reason LIKE 'made room%' LIMIT 1 OFFSET 30")
            upload.sendall(frame[2000:])
            assert closed(upload), "read to its end"
        two.upload(two.model())
        mallory.connection.close()
        for peer in (one, two):
            peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT client_id, decision FROM v1_updates ORDER BY 1") == [("1", "accepted"), ("2", "accepted")]
    models = server.sql("SELECT COUNT(*), COUNT(DISTINCT model_digest) FROM v1_rounds WHERE status = 'committed'")
    assert models == [(2, 1)], "both sent what they were sent"


def test_one_client_has_no_more_uploads_under_way_than_its_share(start: Start) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", "--max-update-size", "4000000", *FAST)
    with PeerAt(server, 1, "127.0.0.1").join() as honest, PeerAt(server, 66, "127.0.0.2").join() as greedy:
        models = [peer.model() for peer in (honest, greedy)]
        with contextlib.ExitStack() as stack:
            for number in range(6):
                stalled = stack.enter_context(greedy.connect())
                stalled.sendall((3_000_000).to_bytes(8, "big") + b"\x80\x04" + bytes(2_999_998 - (number < 2)))
                if number >= 2:  # read to its end, and not kept
                    assert closed(stalled)
                else:
                    wait_for_bytes(server, 3_000_000 * (number + 1))
            for peer, model in zip((honest, greedy), models, strict=True):
                peer.upload(model)  # small enough to need no room
        for peer in (honest, greedy):
            peer.finished()
    assert server.exit_code() == 0
    refused = "SELECT reason, COUNT(*) FROM v1_messages WHERE outcome = 'refused' GROUP BY 1"
    why = "more than 8000000 bytes of updates are under way from where it comes; it could be of client 66"
    assert server.sql(refused) == [(why, 4)]
    assert server.sql("SELECT client_id, decision FROM v1_updates ORDER BY 1") == [
        ("1", "accepted"),
        ("66", "accepted"),
    ]
