"""A real server process, and peers that speak the protocol over real sockets without using any of our code."""

import contextlib
import json
import os
import pickle
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import types
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flserver.clock import Deadline
from tests import warm
from tests.patience import PATIENCE, eventually
from tests.ports import free_port as free_port

FAST = ("--time-to-wait", "0.3", "--rejoin-timeout", "3600")
TESTS = Path(__file__).resolve().parent.parent


class NeuralNet(nn.Module):
    """The class that the field's trainers have, under the name that travels."""

    __module__ = "neural_net_helper"

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 10)


class FieldModule:
    """Plain ``pickle`` looks classes up in ``sys.modules``: within the block, of several threads too, this is a
    process of the field."""

    _lock = threading.Lock()  # guards the two below
    _users = 0
    _before: types.ModuleType | None = None

    def __enter__(self) -> None:
        with self._lock:
            if FieldModule._users == 0:
                FieldModule._before = sys.modules.get("neural_net_helper")
                module = types.ModuleType("neural_net_helper")
                module.NeuralNet = NeuralNet  # type: ignore[attr-defined]
                sys.modules["neural_net_helper"] = module
            FieldModule._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            FieldModule._users -= 1
            if FieldModule._users == 0:
                del sys.modules["neural_net_helper"]
                if self._before is not None:
                    sys.modules["neural_net_helper"] = self._before


field_module = FieldModule


class ServerProcess:
    """``flserver`` as a child process, its log lines as they come."""

    def __init__(
        self, folder: Path, *arguments: str, env: dict[str, str] | None = None, stderr: int = subprocess.PIPE
    ) -> None:
        self.db = folder / "runs.sqlite"
        self.metrics_port = free_port()
        self.lines: list[str] = []
        self._more = threading.Condition()
        command = ["-m", "flserver", "--db", str(self.db), "--server-port", "0"]
        command += ["--metrics-port", str(self.metrics_port), *arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLSERVER_", "FLCLIENT_"))}
        # The checkout under test, whatever is installed.
        path = os.pathsep.join(filter(None, (str(TESTS.parent), environment.get("PYTHONPATH"))))
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "PYTHONPATH": path} | (env or {})
        self.process = self._start(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stderr=stderr)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._port: int | None = None

    def _start(self, program: list[str], **options: Any) -> warm.Started:
        """Start what comes after ``python`` in a command line."""
        return warm.start(program, **options)

    def use_port(self, port: int) -> None:
        """Where trainers connect, for whoever sends the log elsewhere."""
        self._port = port

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """The first log line that matches, when it has come."""
        deadline = Deadline.after(PATIENCE)
        with self._more:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                if not self._reader.is_alive() or deadline.passed:
                    raise AssertionError(f"no line {pattern!r} in:\n{self.log}")
                self._more.wait(0.5)

    @property
    def port(self) -> int:
        """Where trainers connect; waits for the server to say it."""
        if self._port is None:
            self._port = int(self.wait_for_line(r"listening for trainers on .*:(\d+)")[1])
        return self._port

    def exit_code(self) -> int:
        """Wait for the server to end by itself."""
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code

    def kill(self) -> None:
        """Power off: SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code()

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What any SQLite client reads, also while the server runs."""
        return sql(self.db, query, *parameters)

    def wait_for_sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query as soon as it has any: rows are committed by another process."""
        return eventually(lambda: self.sql(query, *parameters), lambda: f"no rows for {query}\n{self.log}")

    def metrics(self) -> dict[str, float]:
        """``/metrics`` as {name with labels: value}."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def health(self) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/healthz", timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


def sql(db: Path, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Rows of a query on a database, by the standard library alone."""
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=PATIENCE)) as connection:
        return connection.execute(query, parameters).fetchall()


class Peer:
    """A trainer, one step at a time: plain sockets and plain pickle."""

    def __init__(self, server: ServerProcess | int, client_id: object, data_size: int = 100) -> None:
        self.port = server if isinstance(server, int) else server.port
        self.client_id, self.data_size = client_id, data_size
        self.connection = self.connect()

    def connect(self) -> socket.socket:
        """A connection to the server, the first or an upload's."""
        return connect(self.port)

    def end_of_upload(self, upload: socket.socket) -> None:
        """Say that nothing more comes."""
        upload.shutdown(socket.SHUT_WR)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def register(self, **more: object) -> dict[str, Any]:
        """Send <METADATA> and return the answer."""
        fields = {"header": "<METADATA>", "id": self.client_id, "data_size": self.data_size} | more
        send(self.connection, json.dumps(fields).encode())
        return dict(json.loads(receive(self.connection)))

    def join(self) -> "Peer":
        answer = self.register()
        assert answer["header"] == "<SUCCESS>", answer
        return self

    def message(self) -> dict[str, Any]:
        """The next <MODEL> or <FINISHED>."""
        with field_module():
            return dict(pickle.loads(receive(self.connection)))

    def model(self) -> nn.Module:
        message = self.message()
        assert message["header"] == "<MODEL>", message
        model = message["model"]
        assert isinstance(model, nn.Module)
        return model

    def finished(self) -> None:
        """The next message is the last one, and then the connection ends."""
        assert self.message() == {"header": "<FINISHED>"}
        assert self.connection.recv(1) == b""

    def stopped(self) -> None:
        """The same of a run that stops in its middle: the trainers in the field look at the header alone."""
        assert self.message() == {"header": "<FINISHED>", "complete": False}
        assert self.connection.recv(1) == b""

    def upload(self, model: nn.Module, **more: object) -> None:
        """Answer on a connection of its own, and wait until the server has read all of it and closed."""
        body = self.body(model, **more)
        with self.connect() as upload:
            send(upload, body)
            self.end_of_upload(upload)
            assert upload.recv(1) == b""

    def body(self, model: nn.Module, **more: object) -> bytes:
        with field_module():
            return pickle.dumps({"header": "<MODEL>", "id": self.client_id, "model": model} | more)

    def answer(self, change: float = 0.0, **more: object) -> nn.Module:
        """One round: take the model, add ``change`` to every parameter, upload. Returns what was uploaded."""
        model = self.model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(change)
        self.upload(model, **more)
        return model


class PeerAt(Peer):
    """A trainer whose connections come from an address of its own on the loopback interface."""

    def __init__(self, server: ServerProcess, client_id: object, host: str) -> None:
        self.host = host
        super().__init__(server, client_id)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE, source_address=(self.host, 0))


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send(connection: socket.socket, body: bytes) -> None:
    connection.sendall(len(body).to_bytes(8, "big") + body)


def receive(connection: socket.socket) -> bytes:
    length = int.from_bytes(exactly(connection, 8), "big")
    return exactly(connection, length)


def exactly(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 16))
        if not part:
            raise EOFError("the server closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def closed(connection: socket.socket) -> bool:
    """Whether the server ends the connection without another byte."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
