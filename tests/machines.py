"""Several machines on one: each has a network, processes, shared memory, folders and a name of its own, on one switch.

A machine is namespaces with a first process. What runs in it ends with that process, and that with the tests.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tests.e2e.netns import connect_from
from tests.patience import eventually

TOOLS = ("ip", "unshare", "nsenter", "bash", "mount")
FIRST = """
read -r pid rest < /proc/self/stat  # that of outside, as long as /proc is
hostname "$0" && mount -t proc proc /proc && ip link set lo up || exit
for folder in /dev/shm "$@"; do mount -t tmpfs tmpfs "$folder" || exit; done
echo "$pid"
read -r  # until whoever has made the machine ends it, or is gone
"""


def missing() -> str | None:
    """Why there can be no other machines here."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "needs root"
    return f"needs {', '.join(lacking)}" if lacking else None


class Entered(subprocess.Popen[str]):
    """A program in a machine. What is seen of it here is nsenter, which waits for it and ends as it does."""

    def send_signal(self, number: int) -> None:
        """To the program, as soon as there is one; to nobody where it has ended."""
        eventually(lambda: self.poll() is not None or self._inside())
        for pid in self._inside():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _inside(self) -> list[int]:
        """Its process, as it is seen here: none before it has begun and where it has ended."""
        if self.poll() is not None:
            return []
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


class Machine:
    """``address`` is its own on the switch; it sees this machine's files but for ``folders``, which are empty there."""

    def __init__(self, name: str, address: str, folders: Sequence[Path] = ()) -> None:
        self.name, self.address = name, address
        separate = ("--net", "--pid", "--mount", "--uts", "--fork", "--kill-child")
        self._first = subprocess.Popen(
            ["unshare", *separate, "bash", "-c", FIRST, name, *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where unshare is told to go by what it waits for, it complains
            text=True,
        )
        self._programs: list[Entered] = []
        assert self._first.stdout is not None
        self.pid = int(self._first.stdout.readline() or 0)
        assert self.pid, f"the machine {name} could not be made"

    def command(self, *words: str) -> list[str]:
        """What runs ``words`` there, in the folder in which one is."""
        entered = ("--net", "--pid", "--mount", "--uts")
        return ["bash", "-c", 'exec nsenter --wd="$PWD" "$@"', "-", "--target", str(self.pid), *entered, "--", *words]

    def start(self, *words: str, **options: Any) -> Entered:
        """Start a program there. The options are Popen's."""
        self._programs.append(Entered(self.command(*words), text=True, **options))
        return self._programs[-1]

    def run(self, *words: str) -> str:
        """What a program prints there. Raises CalledProcessError."""
        return subprocess.run(self.command(*words), check=True, capture_output=True, text=True).stdout

    def connect(self, address: str, port: int, source: str | None = None) -> socket.socket:
        """A connection from there, ``source`` being one of its addresses."""
        return connect_from(f"/proc/{self.pid}/ns/net", (address, port), source)

    def path(self, path: Path) -> Path:
        """A path there, as it is found from here."""
        return Path(f"/proc/{self.pid}/root", *path.parts[1:])

    def end_all(self) -> None:
        """Kill all that runs there but what makes it a machine."""
        subprocess.run(self.command("bash", "-c", "kill -KILL -1"), check=False, capture_output=True)

    def power_off(self) -> None:
        """All that runs there is gone at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        for program in (*self._programs, self._first):
            program.wait()
        for stream in (self._first.stdin, self._first.stdout):
            assert stream is not None
            stream.close()


class Network:
    """A switch, and the machines on it."""

    def __init__(self) -> None:
        self._switch = Machine("switch", "")
        self._machines: list[Machine] = []
        self._in_switch("link", "add", "switch", "type", "bridge")
        self._in_switch("link", "set", "switch", "up")

    def machine(self, name: str, address: str, folders: Sequence[Path] = ()) -> Machine:
        """One more machine of a /24, in whose interface ``eth0`` its cable ends."""
        made = Machine(name, address, folders)
        self._machines.append(made)
        self._in_switch("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(made.pid))
        self._in_switch("link", "set", name, "master", "switch", "up")
        made.run("ip", "link", "set", "eth0", "up")
        self.add_address(made, address)
        return made

    def add_address(self, machine: Machine, address: str) -> None:
        """One more for a machine."""
        machine.run("ip", "addr", "add", f"{IPv4Address(address)}/24", "dev", "eth0")

    def unplug(self, machine: Machine) -> None:
        """Pull its cable: no end of any connection is told."""
        self._in_switch("link", "set", machine.name, "down")

    def plug(self, machine: Machine) -> None:
        """Put its cable back."""
        self._in_switch("link", "set", machine.name, "up")

    def close(self) -> None:
        """End all of it."""
        for machine in (*self._machines, self._switch):
            machine.power_off()

    def _in_switch(self, *words: str) -> None:
        inside = (
            "nsenter",
            "--target",
            str(self._switch.pid),
            "--net",
            "--",
        )  # ip is told of machines by their pid here
        subprocess.run([*inside, "ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A switch without machines; all that come to it end with the block. Needs what ``missing`` looks for."""
    made = Network()
    try:
        yield made
    finally:
        made.close()
