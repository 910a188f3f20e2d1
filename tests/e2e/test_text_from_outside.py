"""Text that peers chose, wherever it comes out: log, terminal, SQL, metrics, file names."""

import csv
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess, closed, connect, free_port, send
from tests.e2e.hostile.costs import FORMULAS, NASTY, harmless
from tests.e2e.unattacked import digests, honest_round
from tests.patience import PATIENCE

Join = Callable[..., list[Peer]]
NASTY_JSON = json.dumps(NASTY)  # as escapes: how it travels in JSON


def attack(server: ServerProcess, join: Join) -> None:
    """Say nasty things in every place that a peer's text can come from, and end a run of one round."""
    for body in (
        f'{{"header": {NASTY_JSON}, "id": 1, "data_size": 5}}',
        f'{{"header": "<METADATA>", "id": {NASTY_JSON}, "data_size": 5}}',
        f'{{"header": "<METADATA>", "id": 1, "data_size": {NASTY_JSON}}}',
        f"{{{NASTY_JSON}",
    ):
        with connect(server.port) as peer:
            send(peer, body.encode())
            while peer.recv(4096):  # an <ERROR>, then the end
                pass
    with connect(server.port) as peer:
        send(peer, b"\x80\x04c" + b"os\x1b[2J\nsys\x07tem\n.")
        assert closed(peer)
    with connect(server.port) as peer:
        peer.sendall(b"\x1b[2J\x1b[H\r\n")
        assert closed(peer)
    a, b = join(server, "../../etc/passwd", 'b"} 1\\')
    with Peer(server, "../../etc/passwd") as again:
        again.register(info={"lab": NASTY, NASTY: [NASTY]})
    metrics = {"loss": {"trained": 1.0}, NASTY: {"trained": 2.0}, 'a"b\\': {"trained": 3.0}}
    honest_round(a, b, 0, metrics=metrics)
    for peer in (a, b):
        peer.finished()


def test_what_trainers_call_themselves_is_no_formula_in_csv(start: Start, join: Join, alone: list[str]) -> None:
    server = start("--num-rounds", "1", "--min-clients", "4", *FAST)
    peers = join(server, *FORMULAS)
    for two in (peers[:2], peers[2:]):  # the mean of both pairs is that of one
        honest_round(*two, 0)
    for peer in peers:
        peer.finished()
    assert server.exit_code() == 0
    assert digests(server) == alone[:2]
    asked = ("query", "SELECT client_id, -weight AS w FROM v1_updates ORDER BY client_id", "--format", "csv")
    command = [sys.executable, "-m", "flserver", "--db", str(server.db), *asked]
    for more, before in (((), "'"), (("--raw",), "")):
        said = subprocess.check_output([*command, *more], text=True)
        assert list(csv.reader(said.splitlines()))[1:] == [[before + client, "-0.25"] for client in sorted(FORMULAS)]


@pytest.mark.parametrize("form", ["text", "json"])
def test_in_the_log_the_record_and_the_metrics(
    start: Start, join: Join, tmp_path: Path, form: str, alone: list[str]
) -> None:
    server = start(
        "--num-rounds", "1", "--min-clients", "2", "--log-format", form, "--metrics-linger", str(PATIENCE), *FAST
    )
    with Peer(server, "c") as told:
        told.register(info={"lab": NASTY, NASTY: [NASTY]})
        told.connection.close()
        server.wait_for_sql("SELECT 1 FROM v1_clients WHERE left_at IS NOT NULL")
    attack(server, join)
    assert server.metrics()['flserver_updates_total{decision="accepted"}'] == 2
    server.process.terminate()
    assert server.exit_code() == 0
    assert digests(server) == alone[:2]
    assert harmless(server.log)
    if form == "json":
        assert all(json.loads(line)["message"] for line in server.lines)
    assert "../../etc/passwd" in server.log
    ((info,),) = server.sql("SELECT info FROM v1_clients WHERE client_id = 'c'")
    assert json.loads(info)["lab"] == NASTY, "what was said is on record as it was said"
    names = {name for (name,) in server.sql("SELECT DISTINCT name FROM v1_client_metrics")}
    assert names == {"loss", 'a"b\\'}
    for (reason,) in server.sql("SELECT reason FROM v1_messages WHERE reason IS NOT NULL"):
        assert harmless(reason)
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert not any("passwd" in name for name in files)
    assert all(name.isascii() for name in files)
    for arguments in (["query", "SELECT * FROM v1_clients"], ["query", "SELECT * FROM v1_messages"], ["show", "1"]):
        done = subprocess.run(
            [sys.executable, "-m", "flserver", "--db", server.db, *arguments], capture_output=True, text=True
        )
        assert harmless(done.stdout + done.stderr)


def test_on_a_terminal(tmp_path: Path, join: Join) -> None:
    """The live view: what it writes of a peer's text has no escape sequence that is not its own."""
    controller, terminal = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(controller, 1 << 16)
            except OSError:  # the last one has closed the terminal
                return
            shown.append(data)
            if b"listening for trainers" in b"".join(shown):
                listening.set()

    listening, port = threading.Event(), free_port()
    options = ("--server-port", str(port), "--num-rounds", "1", "--min-clients", "2", *FAST)
    with ServerProcess(tmp_path, *options, stderr=terminal) as server:
        os.close(terminal)
        reader = threading.Thread(target=read)
        reader.start()
        assert listening.wait(PATIENCE), b"".join(shown)
        server.use_port(port)
        attack(server, join)
        assert server.exit_code() == 0
        reader.join()
    os.close(controller)
    text = b"".join(shown).decode()
    assert "etc/passwd" in text
    for nasty in ("\x1b[41m", "\x07", "\u202e", "\x1b[2J\x1b[H\r"):
        assert nasty not in text
