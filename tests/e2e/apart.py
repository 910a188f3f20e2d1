"""A run on several machines as the handbook has it: its commands, its HAProxy, and trainers from elsewhere."""

import re
import shlex
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

from flserver.clock import Deadline
from tests.e2e.harness import Peer, ServerProcess
from tests.e2e.tunnels import OPS, Forwarding
from tests.machines import Entered, Machine
from tests.patience import PATIENCE, eventually
from tests.ray_machines import RayMachines

LISTENS = r"(node-\d+) \(process \d+\): listening for trainers on (\S+):(\d+)"
HANDBOOK = (OPS / "README.md").read_text(encoding="utf-8").partition("\n## Several machines\n")[2].partition("\n## ")[0]


def serve(*, tls: bool) -> list[str]:
    """The options of the handbook's server on A, with nodes that end TLS or with HAProxy in their stead."""
    commands = [command.replace("\\\n", " ") for command in re.findall(r"(?m)^flserver ((?:.*\\\n)*.*)$", HANDBOOK)]
    (found,) = [one for one in commands if "--ray-address" in one and ("--tls-cert" in one) == tls and "--db" in one]
    return shlex.split(found)


class ServerOn(ServerProcess):
    """A server on one of the machines of a cluster."""

    def __init__(self, cluster: RayMachines, machine: Machine, folder: Path, *arguments: str) -> None:
        self.machine = machine
        super().__init__(folder, *arguments, env=cluster.env)

    def _start(self, program: list[str], **options: Any) -> Entered:
        return self.machine.start(sys.executable, *program, **options)

    def nodes(self, count: int) -> dict[str, str]:
        """Where nodes listen, by their names, once so many have begun since the start."""
        deadline = Deadline.after(PATIENCE)
        while len(found := re.findall(LISTENS, self.log)) < count:
            assert self._reader.is_alive(), self.log
            assert not deadline.passed, self.log
            with self._more:
                self._more.wait(0.5)
        return {name: host for name, host, _ in found}


class HaProxyOn(Forwarding):
    """HAProxy on a machine of its own, as ``several-machines.cfg`` has it word for word, or with ``text``; the folder
    has the server's certificates."""

    def __init__(self, machine: Machine, folder: Path, text: str | None = None) -> None:
        self.machine = machine
        path = OPS / "haproxy" / "several-machines.cfg"
        if text is not None:
            path = folder / "haproxy.cfg"
            path.write_text(text)
        (port,) = re.findall(r"(?m)^ +bind :(\d+)", path.read_text())
        super().__init__("haproxy", "-f", str(path), folder=folder, port=int(port), on=machine)

    def ready(self) -> None:
        eventually(self._listens, lambda: "HAProxy does not listen:\n" + "\n".join(self.lines))

    def _listens(self) -> bool:
        assert self.process.poll() is None, "HAProxy has ended:\n" + "\n".join(self.lines)
        return f":{self.port} " in self.machine.run("ss", "-Hltn")


def that_ends_tls() -> str:
    """``flserver.cfg`` with the two backends that the handbook puts there."""
    backends = HANDBOOK.partition("in which two backends are others")[2].partition("```\n")[2].partition("```")[0]
    assert backends.count("\nbackend ") + backends.startswith("backend ") == 2
    text = (OPS / "haproxy" / "flserver.cfg").read_text()
    kept, _, _ = text.partition("\nbackend flserver\n")
    return f"{kept}\n{backends}"


class Away(Peer):
    """A trainer on ``machine``, with the address ``source`` of its own, that goes to HAProxy; over TLS with ``context``
    where there is one."""

    def __init__(
        self, machine: Machine, source: str, proxy: HaProxyOn, client: int, context: ssl.SSLContext | None = None
    ) -> None:
        self.machine, self.source, self.proxy, self.context = machine, source, proxy.machine.address, context
        super().__init__(proxy.port, client, 10 + client)

    def connect(self) -> socket.socket:
        connection = self.machine.connect(self.proxy, self.port, self.source)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is None:
            return connection
        return self.context.wrap_socket(connection, server_hostname="flserver.example")

    def end_of_upload(self, upload: socket.socket) -> None:
        """Say that nothing more comes, where no TLS is around it."""
        if self.context is None:
            super().end_of_upload(upload)
