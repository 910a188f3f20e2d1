"""What is written of strangers, of refused peers and of a client that answers again is bounded, and adds up."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress

import torch
from torch import nn

from tests.e2e.agreement import assert_metrics_say_what_sql_says
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, NeuralNet, PeerAt, ServerProcess, receive, send
from tests.patience import PATIENCE

LIMIT = 5  # --strangers-per-minute
EACH = 25  # connections of each kind
ROUNDS = 3
HUGE = {"note": "x" * 3500}


def connected(server: ServerProcess, host: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE, (host, 0))


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(8, "big") + body


def over(connection: socket.socket) -> None:
    with suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass


def says(server: ServerProcess, host: str, data: bytes) -> None:
    """Somebody who says that, and stays until the server has closed."""
    with connected(server, host) as connection, suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        over(connection)


def asks(server: ServerProcess, host: str, **fields: object) -> dict[str, object]:
    """Somebody who asks to take part: the answer."""
    with connected(server, host) as connection:
        send(connection, json.dumps({"header": "<METADATA>", "data_size": 100} | fields).encode())
        answer = dict(json.loads(receive(connection)))
        connection.shutdown(socket.SHUT_WR)
        over(connection)
        return answer


def train(peers: list[PeerAt], expected: nn.Module | None) -> nn.Module:
    """One round, whose model is the ``expected`` one: everybody answers with an update of its own. Returns the exact
    mean of these."""
    models = [peer.model() for peer in peers]
    for number, model in enumerate(models, 1):
        if expected is not None:
            assert torch.equal(model.fc1.weight, expected.fc1.weight)  # type: ignore[union-attr]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * number)
    for peer, model in zip(peers, models, strict=True):
        peer.upload(model)
    mean = NeuralNet()
    with torch.no_grad():
        for name, parameter in mean.named_parameters():
            parameter.copy_(sum(model.state_dict()[name].double() for model in models) / len(models))  # type: ignore[arg-type]
    return mean


def test_strangers_refused_peers_and_answers_given_again_write_little_and_all_of_it_adds_up(start: Start) -> None:
    options = ("--strangers-per-minute", str(LIMIT), "--stop-grace", "0")
    server = start("--num-rounds", "9", "--min-clients", "3", *options, *FAST)
    with ExitStack() as stack:
        hosts = {1: "127.0.1.1", 2: "127.0.1.2", "greedy": "127.0.9.1"}
        *honest, greedy = [stack.enter_context(PeerAt(server, name, host)).join() for name, host in hosts.items()]
        mean = train([*honest, greedy], None)
        greedy.connection.close()  # and answers nothing any more: what it uploads is a duplicate
        metrics = {"é" * 120 + f"{number:04}": {"received": 1.0} for number in range(64)}
        again, nobodys = greedy.body(nn.Linear(4, 4), metrics=metrics), honest[0].body(NeuralNet())
        kinds: dict[str, Callable[[str], object]] = {
            "silent": lambda host: says(server, host, b""),
            "frame": lambda host: says(server, host, b"GET / HTTP/1.1\r\n\r\n"),
            "broken_off": lambda host: says(server, host, (5000).to_bytes(8, "big") + b"\x80\x04half"),
            "identity": lambda host: asks(server, host, id=1, info=HUGE),
            "registration": lambda host: asks(server, host, id="late", info=HUGE),
            "message": lambda host: asks(server, host, id="late", data_size=-1, info=HUGE),
            "upload": lambda host: says(server, host, framed(nobodys)),
            "duplicate": lambda host: says(server, host, framed(again)),
        }

        def crowd(kind: str, host: str) -> None:
            for _ in range(EACH):
                kinds[kind](host)

        places = {kind: f"127.0.{number}.1" for number, kind in enumerate(kinds, 2)}
        assert places["duplicate"] == greedy.host
        threads = [threading.Thread(target=crowd, args=place) for place in places.items()]
        for thread in threads:
            thread.start()
        stack.callback(lambda: [thread.join() for thread in threads])
        for _ in range(ROUNDS):
            mean = train(honest, mean)
        for thread in threads:
            thread.join()
        assert server.terminate() == 3

    minutes = len(server.sql("SELECT DISTINCT substr(opened_at, 1, 16) FROM v1_connections"))
    network = "rtrim(rtrim(peer_host, '0123456789'), '.') || '.0/24'"
    rows = dict(server.sql(f"SELECT {network}, COUNT(*) FROM v1_connections GROUP BY 1"))
    sums = Counter(dict(server.sql("SELECT prefix, SUM(connections) FROM v1_summaries GROUP BY 1")))
    for kind, host in places.items():
        prefix = host.removesuffix(".1") + ".0/24"
        if kind == "duplicate":
            assert (rows[prefix], sums[prefix]) == (EACH + 2, 0), "who takes part has all its rows"
            continue
        assert LIMIT <= rows[prefix] <= LIMIT * minutes, kind
        assert rows[prefix] + sums[prefix] == EACH, kind
        (reasons,) = zip(*server.sql("SELECT DISTINCT reason FROM v1_summaries WHERE prefix = ?", prefix), strict=True)
        assert reasons == ("identity" if kind == "upload" else kind,)
    answered = "SELECT SUM(connections), SUM(messages), SUM(answers) FROM v1_summaries WHERE purpose = 'register'"
    assert len(set(server.sql(answered)[0])) == 1, "everybody who asked was answered"
    decided = server.sql("SELECT client_id, decision, COUNT(*) FROM v1_updates GROUP BY 1, 2 ORDER BY 1, 2")
    greedys = {decision: number for client, decision, number in decided[2:] if client == "greedy"}
    # The next round's model may have come before it closed: then one of them is that one's answer, and cannot be used.
    answer = greedys.keys() & {"late", "rejected"}
    assert greedys == {"accepted": 1, "duplicate": EACH - len(answer)} | dict.fromkeys(answer, 1)
    assert len(decided[2:]) == len(greedys)
    assert len(answer) <= 1
    assert server.sql("SELECT COUNT(*) FROM v1_client_metrics") == [(0,)]
    ((longest,),) = server.sql("SELECT MAX(length(payload)) FROM v1_events WHERE type <> 'RunStarted'")
    assert longest < 6000, "neither their metrics nor their info is kept"

    resumed = start("--resume")
    resumed.wait_for_line("state: joining")
    assert_metrics_say_what_sql_says(resumed)
    told_of(resumed)


def told_of(server: ServerProcess) -> None:
    """Who is answered although there is no row for it is on record as one of its kind, also after a power cut."""
    for _ in range(3 * LIMIT):
        assert asks(server, "127.0.77.1", id="late", data_size=-1)["header"] == "<ERROR>"
    server.kill()
    ((connections, messages),) = server.sql(
        "SELECT SUM(connections), SUM(messages) FROM v1_summaries WHERE prefix = '127.0.77.0/24' AND reason = 'message'"
    )
    assert 1 <= connections == messages <= 2 * LIMIT
