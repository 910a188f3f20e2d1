"""A Ray cluster of several machines, each started as the handbook and the unit say, but for sizes and folders."""

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.machines import Entered, Machine, Network
from tests.patience import PATIENCE, eventually

OPS = Path(__file__).resolve().parent.parent / "ops"
ROLES = re.compile(r"echo 'RAY_HOST=(\S+)\nRAY_ROLE=([^']+)' > /etc/flserver/ray.env")
HEAD, OTHER = ROLES.findall((OPS / "README.md").read_text(encoding="utf-8"))
START = "import sys; from ray.scripts.scripts import main; sys.exit(main())"


class RayMachines:
    """``head`` is the server's machine, the first of ``names``; ``env`` is what a server needs to join at ``address``.

    Each has a folder of its own where all find the token, and Ray its sockets and logs."""

    def __init__(self, network: Network, more_env: dict[str, str] | None = None) -> None:
        self._network = network
        self.folder = Path(tempfile.mkdtemp(prefix="fl-ray-"))  # sockets lie there: their names are to be short
        self.temp = self.folder / "ray"
        self.temp.mkdir()
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        token.chmod(0o600)
        (port,) = re.findall(r"--port=(\d+)", HEAD[1])
        self.address = f"{HEAD[0]}:{port}"
        path = os.pathsep.join(filter(None, (str(OPS.parent), os.environ.get("PYTHONPATH"))))
        self.env = environment(token) | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | (more_env or {})
        self.rays: dict[str, Entered] = {}

    def machine(self, name: str, number: int) -> Machine:
        """One more, with the address that has this number in the network of the handbook's; Ray is not started yet."""
        return self._network.machine(name, f"{HEAD[0].rpartition('.')[0]}.{number}", [self.temp])

    def start(self, machine: Machine, *more: str, role: str | None = None) -> None:
        """Start Ray there, as the head on the head's machine, and wait until it says that it has."""
        if role is None:
            role = HEAD[1] if machine.address == HEAD[0] else OTHER[1]
        words = ray_start(role, machine.address, self.temp)
        with self.log_of(machine).open("ab") as log:
            begun = log.tell()
            self.rays[machine.name] = ray = machine.start(
                *(sys.executable, "-c", START, *words, *more),
                env=os.environ | {"RAY_raylet_start_wait_time_s": str(int(PATIENCE))} | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

        def is_there() -> bool:
            assert ray.poll() is None, self.said(machine)[-3000:]
            return "Ray runtime started" in self.said(machine, begun)

        eventually(is_there, lambda: self.said(machine))

    def restart(self, machine: Machine) -> None:
        """End all that is there, of Ray too, and start that anew."""
        machine.end_all()
        self.rays[machine.name].wait()
        self.start(machine)

    def log_of(self, machine: Machine) -> Path:
        """Where ``ray start`` prints."""
        return self.folder / f"{machine.name}.log"

    def said(self, machine: Machine, since: int = 0) -> str:
        """What it printed."""
        return self.log_of(machine).read_bytes()[since:].decode(errors="replace")

    def close(self) -> None:
        """The machines are the network's, and end with that."""
        for ray in self.rays.values():
            ray.kill()
            ray.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def environment(token: Path) -> dict[str, str]:
    """The unit's variables, with this token."""
    return dict(
        word.replace("/etc/flserver/ray-token", str(token)).split("=", 1)
        for line in _unit()
        if line.startswith("Environment=RAY")
        for word in line.partition("=")[2].split()
    )


def ray_start(role: str, host: str, temp: Path) -> list[str]:
    """The unit's ``start …`` of a small machine, its folder this one."""
    (line,) = [line for line in _unit() if line.startswith("ExecStart=")]
    small = {"/var/lib/flserver-ray": str(temp), "4000000000": str(150 << 20), "$RAY_ROLE": role, "${RAY_HOST}": host}
    for text, other in small.items():
        assert text in line, f"the unit does not say {text}"
        line = line.replace(text, other)
    return [*shlex.split(line)[1:], "--num-cpus=2", "--num-gpus=0"]


def _unit() -> list[str]:
    text = (OPS / "systemd" / "flserver-ray.service").read_text(encoding="utf-8")
    return text.replace("\\\n", " ").splitlines()
