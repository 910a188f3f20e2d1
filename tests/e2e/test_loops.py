"""Registering and leaving in a loop: the record of it is bounded, who loops is told when to come again, and beside it
honest trainers register, restart and finish their rounds."""

import contextlib
import socket
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, islice

import torch

from flserver.rounds.rates import OF_A_CLIENT, of_an_address
from tests.e2e.agreement import assert_metrics_say_what_sql_says
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, NeuralNet, Peer, PeerAt, ServerProcess
from tests.patience import PATIENCE

HOME, HOME_TOO, CROWD, CROWD_TOO = "127.0.1.1", "127.0.2.1", "127.0.3.1", "127.0.4.1"
FILLS = "127.0.5.1"
REGISTRATIONS = "SELECT peer_host, COUNT(*) FROM v1_clients JOIN v1_connections USING (connection_id) GROUP BY 1"
PLACES = 4  # --max-clients-per-address
AT_ONCE = of_an_address(PLACES).at_once
STRANGERS = 20  # --strangers-per-minute
RESTARTS = 60  # in a row
MORE = 40  # registrations after the first one that is refused


def leave(peer: Peer, *, reset: bool = False) -> None:
    """The connection ends, by an end of file or by a reset; the server has seen it when this returns."""
    if reset:
        peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.connection.close()
        return
    with peer.connection, contextlib.suppress(ConnectionResetError):
        peer.connection.shutdown(socket.SHUT_WR)
        while peer.connection.recv(1 << 16):
            pass


def loop(server: ServerProcess, host: str, ids: Iterable[str], *, reset: bool = False) -> tuple[int, set[str]]:
    """Registers and leaves until it was refused ``MORE`` times. How often it was taken, and what it was told else."""
    taken, told, refused = 0, set(), 0
    for client_id in islice(ids, 3 * AT_ONCE):
        with PeerAt(server, client_id, host) as peer:
            answer = peer.register()
            if answer["header"] == "<SUCCESS>":
                taken += 1
                leave(peer, reset=reset)
            elif "registered already" not in answer["msg"]:  # the reset was not seen yet
                told.add(answer["msg"].rpartition(" Try again in ")[0])
                refused += 1
                if refused == MORE:
                    break
    return taken, told


def test_who_registers_and_leaves_in_a_loop_does_not_grow_the_record_for_ever(start: Start) -> None:
    """With ever new ids, with two in turn, as a participant; a trainer that restarts all the time is none of them."""
    limits = ("--max-clients-per-address", str(PLACES), "--strangers-per-minute", str(STRANGERS))
    server = start("--num-rounds", "2", "--min-clients", "10", "--metrics-linger", str(PATIENCE), *limits, *FAST)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        a, b = (stack.enter_context(PeerAt(server, name, HOME)).join() for name in "ab")
        new = pool.submit(loop, server, CROWD, (f"new {number}" for number in count()))
        two = pool.submit(loop, server, CROWD_TOO, cycle(("one", "other")), reset=True)
        for _ in range(RESTARTS):
            leave(PeerAt(server, "c", HOME).join())
        taken, told = {}, {}
        for host, result in ((CROWD, new), (CROWD_TOO, two)):
            taken[host], told[host] = result.result()
        # More than loops can have half-left at once on a busy machine: until then the window is open.
        names = {HOME_TOO: ("c to f", "d", "e", "f"), FILLS: ("g", "h", "i", "j")}
        fillers = [PeerAt(server, name, host).join() for host, ids in names.items() for name in ids]
        models = a.model(), b.model()
        for peer in fillers:
            leave(peer)
        taken[HOME_TOO], told[HOME_TOO] = loop(server, HOME_TOO, cycle("d"))
        with PeerAt(server, "a", HOME) as again:
            assert "registered already" in again.register()["msg"]
        mean = NeuralNet()
        with torch.no_grad():
            for number, (name, parameter) in enumerate(mean.named_parameters()):
                ours = [dict(model.named_parameters())[name] for model in models]
                ours[0].add_(0.25), ours[1].add_(0.5 + number)
                parameter.copy_((ours[0].double() + ours[1].double()) / 2)
        for peer, model in zip((a, b), models, strict=True):
            peer.upload(model)
        for peer in (a, b):
            peer.upload(model := peer.model())
            assert torch.equal(model.fc1.weight, mean.fc1.weight)
            assert torch.equal(model.fc1.bias, mean.fc1.bias)
        for peer in (a, b):
            peer.finished()
    server.wait_for_line("metrics stay for")
    assert_metrics_say_what_sql_says(server)
    server.terminate()
    assert "Traceback" not in server.log

    too_many = "Too many clients have registered from"
    assert told == {
        CROWD: {f"{too_many} {CROWD}."},
        CROWD_TOO: {f"{too_many} {CROWD_TOO}."},
        HOME_TOO: {"Client d has registered too often."},
    }
    assert dict(server.sql(REGISTRATIONS)) == taken | {HOME: RESTARTS + 2, HOME_TOO: taken[HOME_TOO] + 4, FILLS: 4}
    for host, at_once in {CROWD: AT_ONCE, CROWD_TOO: AT_ONCE, HOME_TOO: OF_A_CLIENT.at_once - 1}.items():
        assert at_once <= taken[host] <= at_once + 60, "it fills up meanwhile"
    ((summed,),) = server.sql("SELECT SUM(connections) FROM v1_summaries WHERE reason = 'registration'")
    minutes = len(server.sql("SELECT DISTINCT substr(opened_at, 1, 16) FROM v1_connections"))
    assert summed >= 3 * (MORE - STRANGERS * minutes)
