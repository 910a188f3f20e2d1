"""Trainers that stop in every way there is: each ends as the rules say, within its deadline, and costs itself only."""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import warm
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, TESTS, Peer, ServerProcess, closed, connect
from tests.e2e.netns import another_machine
from tests.fldata import write_fldata
from tests.patience import DEADLINE, PATIENCE

Join = Callable[..., list[Peer]]
PARTICIPATION = "SELECT round, participation FROM v1_client_rounds WHERE client_id = ? ORDER BY round, attempt"


def reset(sock: socket.socket) -> None:
    """Close so that the other end gets RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def dropouts(server: ServerProcess) -> dict[str, float]:
    """What /metrics counts, by reason, and only what is not 0."""
    name = "flserver_dropouts_total"
    return {key[len(name) :]: value for key, value in server.metrics().items() if key.startswith(name) and value}


def test_a_trainer_that_is_stopped_is_late_and_takes_part_again(start: Start, tmp_path: Path) -> None:
    """Between its answer and the next model, which comes to it all the same."""
    data = write_fldata(tmp_path / "FLdata", (1, 2, 3), samples=50)
    server = start("--num-rounds", "4", "--min-clients", "3", "--round-timeout", str(DEADLINE), *FAST)
    command = [str(TESTS / "field_trainer.py"), "--data", str(data), "--server-port", str(server.port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(Peer(server, number)).join() for number in (1, 2))
        command += ["--client-id", "3"]
        third = warm.start(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        stack.callback(third.wait)
        stack.callback(third.kill)
        one.answer()
        model = two.model()
        server.wait_for_sql("SELECT 1 FROM v1_updates WHERE client_id = '3'")
        third.send_signal(signal.SIGSTOP)
        two.upload(model)
        server.wait_for_line("round 1/4 committed")
        for peer in (one, two):
            peer.answer()
        server.wait_for_line("round 2/4 committed")  # at its deadline: the stopped one's connection is alive
        third.send_signal(signal.SIGCONT)
        server.wait_for_line("update of client 3 late")
        for _ in range(2):
            for peer in (one, two):
                peer.answer()
        for peer in (one, two):
            peer.finished()
        assert third.wait(PATIENCE) == 0, "it saw <FINISHED>"
    assert server.exit_code() == 0
    rows = dict(server.sql(PARTICIPATION, "3"))
    assert (rows[1], rows[2], rows[4]) == ("answered", "timed_out", "answered")
    assert rows[3] in ("not_sent", "answered"), "its late update came before or after round 3 began"
    assert server.sql("SELECT answers_round, decision FROM v1_updates WHERE client_id = '3' AND decision = 'late'") == [
        (2, "late")
    ]


def test_an_upload_reset_in_the_middle_answers_nothing_and_may_come_again(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST)
    a, b = join(server, "a", "b")
    model = a.model()
    body = a.body(model)
    for cut, end in ((len(body) // 2, reset), (len(body) - 1, socket.socket.close), (3, reset)):
        upload = connect(server.port)
        upload.sendall((len(body).to_bytes(8, "big") + body)[:cut])
        end(upload)
    server.wait_for_sql("SELECT 1 FROM v1_messages WHERE outcome = 'failed' LIMIT 1 OFFSET 2")
    a.upload(model)
    b.answer()
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    assert sorted(server.sql("SELECT bytes, reason FROM v1_messages WHERE outcome = 'failed'")) == [
        (3, "connection reset in the middle of a frame"),
        (len(body) // 2, "connection reset in the middle of a frame"),
        (len(body) - 1, "end of file in the middle of a frame"),
    ]
    assert server.sql("SELECT client_id, decision FROM v1_updates ORDER BY 1") == [("a", "accepted"), ("b", "accepted")]


def test_an_upload_that_stalls_is_cut_off_and_the_next_one_counts(start: Start, join: Join) -> None:
    """Sooner than by any other time-out, also by the one for a whole frame."""
    server = start("--num-rounds", "1", "--min-clients", "2", "--first-frame-timeout", str(DEADLINE), *FAST)
    a, b = join(server, "a", "b")
    model = a.model()
    body = a.body(model)
    b.answer()
    with connect(server.port) as stalled:
        stalled.sendall(len(body).to_bytes(8, "big") + body[:1000])  # not enough for one such window
        assert closed(stalled)
    a.upload(model)
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    ((reason,),) = server.sql("SELECT reason FROM v1_messages WHERE outcome = 'failed'")
    assert reason == f"slower than 1024 bytes a second for {DEADLINE:g} s in the middle of a frame"


def test_a_trainer_that_never_reads_its_model_is_let_go(start: Start, join: Join) -> None:
    options = ("--min-clients", "3", "--peer-timeout", str(DEADLINE), "--model", "torchvision:squeezenet1_1")
    server = start("--num-rounds", "1", *options, *FAST)
    a, b, _ = join(server, "a", "b", "c")
    models = [peer.model() for peer in (a, b)]
    for peer, model in zip((a, b), models, strict=True):
        peer.upload(model)
    for peer in (a, b):
        peer.finished()  # without the round's deadline of an hour
    assert server.exit_code() == 0
    assert server.sql(PARTICIPATION, "c") == [(1, "dropped")]
    assert server.sql("SELECT left_reason FROM v1_clients WHERE client_id = 'c'") == [("timeout",)]
    ((reason,),) = server.sql("SELECT reason FROM v1_messages WHERE outcome = 'failed' AND direction = 'out'")
    assert reason == "timed out while sending"


def test_a_trainer_may_be_silent_for_longer_than_every_other_timeout(start: Start, join: Join) -> None:
    names = ("--first-frame-timeout", "--frame-timeout", "--peer-timeout")
    times = [word for name in names for word in (name, str(DEADLINE))]
    server = start("--num-rounds", "1", "--min-clients", "2", *times, *FAST)
    a, b = join(server, "a", "b")
    models = [peer.model() for peer in (a, b)]
    assert select.select([a.connection], [], [], DEADLINE + 1)[0] == [], "it trains, for longer than the times above"
    for peer, model in zip((a, b), models, strict=True):
        peer.upload(model)
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0


@pytest.mark.network_namespace
def test_a_trainer_whose_cable_was_pulled_is_noticed(start: Start) -> None:
    with another_machine() as machine:
        options = ("--host", machine.here, "--insecure", "--peer-timeout", "3", "--first-frame-timeout", "3600")
        server = start("--num-rounds", "1", "--min-clients", "3", "--metrics-linger", str(PATIENCE), *options, *FAST)

        class PeerHere(Peer):
            def connect(self) -> socket.socket:
                return socket.create_connection((machine.here, self.port), timeout=PATIENCE)

        class PeerThere(Peer):
            def connect(self) -> socket.socket:
                return machine.connect(self.port)

        with PeerHere(server, "a").join() as a, PeerHere(server, "b").join() as b, PeerThere(server, "c").join() as c:
            body = c.body(c.model())
            with c.connect() as upload:
                upload.sendall(len(body).to_bytes(8, "big") + body[:9000])
                server.wait_for_sql("SELECT 1 FROM v1_connections LIMIT 1 OFFSET 3")
                for peer in (a, b):
                    peer.answer()
                machine.pull_the_cable()
                for peer in (a, b):
                    peer.finished()  # the deadline is an hour away
                assert dropouts(server) == {'{reason="timeout"}': 1.0}
                server.process.terminate()
        assert server.exit_code() == 0
    assert server.sql("SELECT left_reason FROM v1_clients WHERE client_id = 'c'") == [("timeout",)]
    assert server.sql(PARTICIPATION, "c") == [(1, "dropped")]
    ((outcome, size),) = server.sql("SELECT outcome, bytes FROM v1_messages WHERE outcome <> 'ok'")
    assert (outcome, size) == ("failed", 9008)
