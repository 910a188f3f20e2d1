"""HAProxy before several machines, by its own file, and one that goes: no trainer is refused for it, and none hangs."""

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.apart import HaProxyOn
from tests.e2e.tunnels import OPS, changed
from tests.machines import Machine, network

ANSWERS = """
import contextlib, socket, sys
with socket.create_server((sys.argv[1], 50052)) as listening:
    print("listening", flush=True)
    kept = []
    while True:
        with contextlib.suppress(OSError):  # a check is over before it is answered
            kept.append(listening.accept()[0])
            kept[-1].sendall(sys.argv[1].encode())
"""


def answering(machine: Machine) -> None:
    """Whoever connects there is told where that is, and then nothing."""
    program = machine.start(sys.executable, "-c", ANSWERS, machine.address, stdout=subprocess.PIPE)
    assert program.stdout is not None
    with program.stdout as said:
        said.readline()


class Site:
    """Where trainers are: what they are told, and by whom."""

    def __init__(self, trainers: Machine, proxy: HaProxyOn, stack: ExitStack) -> None:
        self._trainers, self._proxy, self._stack = trainers, proxy, stack

    def come(self) -> tuple[str, socket.socket]:
        connection = self._stack.enter_context(self._trainers.connect(self._proxy.machine.address, self._proxy.port))
        return connection.recv(100).decode(), connection


@pytest.mark.network_namespace
@pytest.mark.haproxy
def test_a_machine_that_goes_without_a_word_keeps_no_trainer_from_another(tmp_path: Path) -> None:
    with network() as made:
        names = {"machine-a": 1, "machine-b": 2, "haproxy": 9, "trainers": 20}
        machines = {name: made.machine(name, f"10.0.0.{number}") for name, number in names.items()}
        for name in ("machine-a", "machine-b"):
            answering(machines[name])
        text = (OPS / "haproxy" / "several-machines.cfg").read_text()
        # Two machines, and no check that finds one gone.
        seldom = changed(text, {"check inter 2s": "check inter 600s", r"^ +server machine-c .*\n": ""})
        with HaProxyOn(machines["haproxy"], tmp_path, seldom) as proxy, ExitStack() as stack:
            site = Site(machines["trainers"], proxy, stack)
            assert {site.come()[0] for _ in range(2)} == {"10.0.0.1", "10.0.0.2"}
            made.unplug(machines["machine-b"])
            assert {site.come()[0] for _ in range(2)} == {"10.0.0.1"}
        made.plug(machines["machine-b"])
        with HaProxyOn(machines["haproxy"], tmp_path) as proxy, ExitStack() as stack:
            site = Site(machines["trainers"], proxy, stack)
            here, there = dict(site.come() for _ in range(2)), "10.0.0.2"
            made.unplug(machines["machine-b"])
            assert here.pop(there).recv(1) == b"", "it is let go, and can come back"
            (stays,) = here.values()
            stays.setblocking(False)
            with pytest.raises(BlockingIOError):
                stays.recv(1)
