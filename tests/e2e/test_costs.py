"""What messages cost: well-formed ones that become much, in floods, beside honest trainers whose rounds go on."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path

import torch
from torch import nn

from tests import warm
from tests.certificates import Authority
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, TESTS, Peer, PeerAt, ServerProcess, connect, send
from tests.e2e.hostile.attack import to_the_end
from tests.e2e.hostile.costs import HOLD_TRANSACTION, MUCH, body_of, holding
from tests.e2e.tls_peers import TlsPeer, served, trusting
from tests.e2e.unattacked import digests, honest_rounds
from tests.patience import PATIENCE, eventually

AT_ONCE_ALL = 600  # messages that are complete at one moment
BEFORE_AN_ANSWER = 30  # of these that are read while somebody who registers is answered, at most: it would be all
LEAST_READ, MOST_READ = 1 << 20, 32 << 20  # bytes that are made of a large one and of some ordinary ones at once
A_ROUND = 8  # messages of a flood that are read while an honest round is made, at most: there would be hundreds


@contextlib.contextmanager
def flood(server: ServerProcess, host: str) -> Iterator[None]:
    """Many connections from ``host`` that send such messages, again and again."""
    program = ["-m", "tests.e2e.hostile.flood", str(server.port), host]
    process = warm.start(program, cwd=TESTS.parent, env=os.environ | {"PYTHONPATH": str(TESTS.parent)})
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def play(peers: list[Peer], rounds: int) -> None:
    """Every trainer makes the same of a model, so that each round's mean is bit for bit what they sent."""
    sent: nn.Module | None = None
    for _ in range(rounds):
        for peer in peers:
            model = peer.model()
            assert sent is None or same(sent, model)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.25)
            peer.upload(model)
        sent = model


def test_a_flood_of_messages_that_become_much_does_not_hold_rounds_up(start: Start) -> None:
    """From beside the honest, then from another participant's address: few of them are read while the rounds are made,
    and who registers is answered meanwhile."""
    each = 3  # rounds beside a flood
    rounds = 1 + 2 * each
    server = start("--num-rounds", str(rounds), "--min-clients", "3", *FAST)
    read = "SELECT COUNT(*) FROM v1_messages WHERE outcome = 'refused' AND header = '<MODEL>'"
    with Peer(server, 1).join() as one, Peer(server, 2).join() as two:
        honest = [one, two]
        with PeerAt(server, "m", "127.0.0.2").join() as leaver:
            leaver.model()
        play(honest, 1)
        for host in ("127.0.0.1", "127.0.0.2"):
            ((before,),) = server.sql(read)
            with flood(server, host):
                server.wait_for_sql(f"{read} HAVING COUNT(*) > ?", before + 4)
                play(honest, each - 1)
                with Peer(server, 1) as again:
                    assert "is registered already" in again.register()["msg"]
                ((after,),) = server.sql(read)
                play(honest, 1)
                assert after - before < A_ROUND * each
        for peer in honest:
            peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 2 * rounds)]
    assert "Traceback" not in server.log


def test_hundreds_of_messages_at_once_hold_no_registration_up(start: Start) -> None:
    """From the address of the honest, whose round is made meanwhile: of so many few are read before each answer."""
    options = ("--num-rounds", "3", "--min-clients", "2", "--strangers-per-minute", "100000")
    server = start(*options, *FAST)
    read = "SELECT COUNT(*) FROM v1_messages WHERE outcome = 'refused' AND header = '<MODEL>'"
    bodies = cycle([body_of(value) for value in MUCH.values()])
    with Peer(server, 1).join() as one, Peer(server, 2).join() as two, contextlib.ExitStack() as stack:
        play([one, two], 1)
        held = [(stack.enter_context(connect(server.port)), next(bodies)) for _ in range(AT_ONCE_ALL)]
        for sock, body in held:
            sock.sendall(len(body).to_bytes(8, "big") + body[:-1])
        for sock, body in held:
            sock.sendall(body[-1:])
        charged = []
        for _ in range(8):
            ((before,),) = server.sql(read)
            charged.append(server.metrics()["flserver_inflight_bytes"])
            with Peer(server, 1) as again:
                assert "is registered already" in again.register()["msg"]
            ((after,),) = server.sql(read)
            assert after - before < BEFORE_AN_ANSWER
        assert LEAST_READ < max(charged) < MOST_READ, "what is made of them is counted to the budget; they are not"
        ((before,),) = server.sql(read)
        play([one, two], 2)
        ((after,),) = server.sql(read)
        assert after - before < 2 * A_ROUND, "an update waits for its own client's messages, not for its neighbours'"
        for peer in (one, two):
            peer.finished()
        ended = "SELECT status FROM v1_runs WHERE status <> 'running'"  # its process gives the rest some seconds
        assert server.wait_for_sql(ended) == [("completed",)]
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 6)]
    assert "Traceback" not in server.log


def test_a_flood_of_answers_given_again_waits_for_the_record_and_writes_little(start: Start) -> None:
    """With 64 long-named metrics each, beside rounds, and while another program holds the database up. They are read:
    another client's could come from there."""
    server = start("--num-rounds", "5", "--min-clients", "3", "--db-patience", str(PATIENCE), *FAST)
    metrics = {"é" * 120 + f"{number:04}": {"received": 1.0} for number in range(64)}
    stop, sent = threading.Event(), count()
    with contextlib.ExitStack() as stack:
        *honest, greedy = [
            stack.enter_context(PeerAt(server, name, host)).join()
            for name, host in (("1", "127.0.1.1"), ("2", "127.0.1.2"), ("greedy", "127.0.1.2"))
        ]
        play([*honest, greedy], 1)
        greedy.connection.close()
        again = greedy.body(nn.Linear(4, 4), metrics=metrics)

        def keep_sending() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError), greedy.connect() as upload:
                    send(upload, again)
                    upload.shutdown(socket.SHUT_WR)
                    to_the_end(upload)
                    next(sent)

        threads = [threading.Thread(target=keep_sending) for _ in range(8)]
        for thread in threads:
            thread.start()
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(stop.set)
        play(honest, 2)
        with holding(HOLD_TRANSACTION, server.db):
            bound, lengths = server.metrics()["flserver_audit_queue_length_limit"] / 8, [0.0]

            def all_wait() -> bool:
                lengths.append(server.metrics()["flserver_audit_queue_length"])
                assert lengths[-1] <= bound
                return lengths[-1] > bound / 8 and lengths[-20:] == lengths[-1:] * 20

            eventually(all_wait)
        assert lengths[-1] == bound, "it is full of short events"
        play(honest, 2)
        stop.set()
        for peer in honest:
            peer.finished()
    assert server.exit_code() == 0
    decided = dict(server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1"))
    assert decided.pop("duplicate") >= next(sent) > bound / 8
    assert decided == {"accepted": 3 + 2 * 4}
    assert server.sql("SELECT COUNT(*) FROM v1_client_metrics") == [(0,)]
    ((events,),) = server.sql("SELECT COUNT(*) FROM v1_events")
    assert server.db.stat().st_size < 2000 * events, "what they measured is not kept"


class Greedy(TlsPeer):
    """A participant that sends more than it is asked for."""

    def send(self, body: bytes) -> None:
        with self.connect() as upload:
            send(upload, body)
            to_the_end(upload)


def test_under_mutual_tls_what_is_not_asked_for_is_not_read(start: Start, tmp_path: Path) -> None:
    """The same update again, another one, and messages that become much: rows, and no more."""
    authority = Authority(tmp_path / "ca")
    server = start("--num-rounds", "3", "--min-clients", "3", *FAST, *served(authority, mutual=True))
    contexts = {client: trusting(authority, authority.client(client)) for client in "12c"}
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(TlsPeer(server, client, contexts[client])).join() for client in "12")
        greedy = stack.enter_context(Greedy(server, "c", contexts["c"]))
        greedy.join()
        for _ in range(3):
            model = greedy.model()
            greedy.upload(model)
            greedy.upload(model)
            greedy.upload(nn.Linear(3, 3))
            for value in MUCH.values():
                greedy.send(body_of(value, "c"))
            greedy.send(body_of(MUCH["lists"], "1"))
            for peer in (one, two):
                peer.answer(0.5)
        for peer in (one, two, greedy):
            peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT client_id, COUNT(*) FROM v1_updates WHERE decision = 'accepted' GROUP BY 1") == [
        (client, 3) for client in "12c"
    ]
    assert server.sql(
        "SELECT client_id, decision, update_digest, reason, COUNT(*) FROM v1_updates"
        " WHERE decision <> 'accepted' GROUP BY 1, 2, 3, 4 ORDER BY 4"
    ) == [("c", "duplicate", None, f"not read: an update has answered round {n}", 2 + len(MUCH)) for n in (1, 2, 3)]
    assert server.sql("SELECT DISTINCT reason, outcome FROM v1_messages WHERE outcome <> 'ok'") == [
        ("the certificate is client c's, the message says client 1", "refused")
    ]


def test_strangers_that_are_refused_do_not_fill_the_port(start: Start, tmp_path: Path, alone: list[str]) -> None:
    """Without a certificate, with another authority's, in plain text: more than there are places, each time that
    a trainer connects."""
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    tls = served(authority, mutual=True)
    server = start("--num-rounds", "4", "--min-clients", "2", "--max-connections", "8", *FAST, *tls)
    nameless, foreign = trusting(authority), trusting(authority, other.client("1"))

    def stranger(number: int) -> socket.socket:
        sock = connect(server.port)
        if number % 3 == 0:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return sock
        with contextlib.suppress(OSError):  # that it is refused may show at once
            return (nameless, foreign)[number % 3 - 1].wrap_socket(sock, server_hostname="localhost")
        return sock

    class Beset(TlsPeer):
        def connect(self) -> ssl.SSLSocket:
            for number in range(12):
                stack.enter_context(stranger(number))
            return super().connect()

    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(Beset(server, c, trusting(authority, authority.client(c)))).join() for c in "12")
        honest_rounds(a, b, 4)
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 8)]
    assert digests(server) == alone[:5]
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE purpose <> 'unknown'") == [(10,)]
    assert server.sql("SELECT COUNT(*) FROM v1_connections WHERE purpose = 'unknown'")[0][0] >= 120
    refused = server.sql("SELECT DISTINCT reason FROM v1_messages WHERE outcome = 'refused'")
    assert len(refused) >= 3, refused
