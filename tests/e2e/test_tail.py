"""A live run is followed from its record and from its metrics, through a kill and a resumption, and holds nobody up."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import warm
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, TESTS, Peer, free_port
from tests.patience import PATIENCE, eventually

Join = Callable[..., list[Peer]]


class Tail:
    """``flserver tail`` as a process of its own; ``lines`` are what it has printed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_")}
        environment |= {"PYTHONPATH": str(TESTS.parent), "PYTHONWARNINGS": "error"}
        command = ["-m", "flserver", "--db", "runs.sqlite", "tail", "--interval", "0.3", *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = warm.start(command, cwd=folder, env=environment, **pipes)
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, into))
            for stream, into in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: object, into: list[str]) -> None:
        for line in stream or ():  # type: ignore[attr-defined]
            into.append(line.rstrip("\n"))

    def wait_for(self, text: str) -> str:
        """The first line with that text, when it is there."""
        return eventually(
            lambda: next((line for line in self.lines if text in line), ""), lambda: [text, self.lines, self.errors]
        )

    def exit_code(self) -> int:
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join()
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.exit_code()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[Callable[..., Tail]]:
    with ExitStack() as stack:

        def follow(*arguments: str) -> Tail:
            made = Tail(tmp_path, *arguments)
            stack.callback(made.end)
            return made

        yield follow


def test_a_run_is_followed_from_before_its_database_is_there_to_its_end(
    start: Start, join: Join, tail: Callable[..., Tail], tmp_path: Path
) -> None:
    port = free_port()
    options = ("--metrics-port", str(port), "--metrics-linger", "600", "--min-clients", "2", *FAST)
    record, outside = tail("--wait", "--json"), tail("--from-metrics", f"http://127.0.0.1:{port}", "--wait")
    eventually(lambda: record.errors and outside.errors)
    assert "waiting for it" in record.errors[0]

    server = start("--run-name", "live", "--num-rounds", "2", *options)
    lund, umea = join(server, "hospital-lund", "hospital-umea")
    for peer in (lund, umea):
        peer.answer()
    record.wait_for("round 1/2 committed")
    outside.wait_for("round 1/2 committed")
    # Not before: what it has seen first, it does not tell of.
    with socket.create_connection(("127.0.0.1", server.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    record.wait_for("something else than a frame")
    outside.wait_for("message refused")
    passer_by = tail("live", "--lines", "1")
    passer_by.wait_for(" ")
    umea.connection.close()
    record.wait_for("client hospital-umea left: ")
    outside.wait_for("client dropped out")
    passer_by.process.send_signal(signal.SIGINT)
    assert passer_by.exit_code() == 0
    assert [error.partition("(")[2] for error in passer_by.errors] == ["live), running"]

    server.kill()
    eventually(lambda: "no server has the run: waiting for its resumption, by " in record.errors[-1])
    server = start("--resume", "--run-name", "live", *options)
    for peer in join(server, "hospital-lund", "hospital-umea"):
        peer.answer()
    record.wait_for("resumed from round 1 of 2")
    outside.wait_for("round 2/2 committed")
    assert record.exit_code() == 0
    assert outside.exit_code() == 0
    messages = [json.loads(line)["message"] for line in record.lines]
    told = [text for text in messages if text.startswith(("run ", "round "))]
    assert told[0].endswith("(live) started: 2 rounds")
    assert told[-1].split()[2] == "completed,"
    assert sum("round 1/2 committed" in text for text in messages) == 1, "each is told once"
    assert not any("hospital" in line for line in outside.lines + outside.errors)
    assert server.terminate() == 0
    assert not tmp_path.joinpath("runs.sqlite-wal").exists(), "nobody was in the way of the server's clean end"

    after = tail()
    assert after.exit_code() == 0
    assert after.lines[-1].endswith(json.loads(record.lines[-1])["message"])
    assert "(live), completed " in after.errors[0]
    assert after.errors[1].endswith("--wait waits for the next")
