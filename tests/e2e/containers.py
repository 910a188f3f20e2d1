"""Containers without a container engine: each of an example's is processes in namespaces of their own (needs root).

It has a network card, a name, a root folder that it cannot write, its own processes and no capabilities, and the user,
files, environment and command that the example says. What is in an image is this machine's instead: see ``IMAGES``.
Memory and processors are not bounded.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.e2e.names import NameServer
from tests.e2e.netns import in_network
from tests.patience import PATIENCE, eventually
from tests.postgres_server import binaries

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ("bin", "sbin", "lib", "lib64", "usr", "etc", "sys", "dev")
BOUND = 30.0  # seconds that a question to one of them may take
USERS = {"root": 0, "postgres": 999, "haproxy": 99, "flserver": 10001}
"""Whom the images know."""

INITDB = """
mkdir -p "$PGDATA"; chmod 0700 "$PGDATA"
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  initdb --pgdata="$PGDATA" --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  pg_ctl --pgdata="$PGDATA" --wait -o '-c listen_addresses=' start
  for file in /docker-entrypoint-initdb.d/*.sh; do . "$file"; done
  pg_ctl --pgdata="$PGDATA" --wait stop
fi
exec "$@" -c 'listen_addresses=*'
"""
IMAGES: dict[str, tuple[str, ...]] = {
    "flserver": (),
    "haproxy": (),
    "postgres": ("sh", "-ec", INITDB, "entrypoint"),
}
"""What an image's own entry point does before the command."""
COMMANDS = {"haproxy": ("haproxy", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg")}
"""The command of an image for which an example has none."""


QUICK = "[ ! -w /proc/self/autogroup ] || echo -10 > /proc/self/autogroup; renice -n -10 -p $$ > /dev/null || :"
"""Ray gives up processes of its own that have not started within 15 s, which nothing changes; so these come first where
other tests are at work too. A container has its share of an engine's machine."""
DIES_WITH_ITS_PARENT = ("--pdeathsig=SIGKILL",)
"""For setpriv. Whatever ends the tests ends each container's first process, and that all others of it. Who changes its
user, as that process does, has to say it again."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """What an example says of one. ``mounts`` are files and folders by where they are seen, ``memory`` the folders that
    are empty at its start; ``names`` are what the others call it, ``outside`` says that a second network card is to us.
    """

    name: str
    image: str
    user: int
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: Mapping[str, Path] = field(default_factory=dict)
    memory: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    address: str | None = None
    outside: bool = False
    health: tuple[str, ...] = ()


class Running:
    """One that runs. ``pid`` is its first process, as this machine counts."""

    def __init__(self, what: Container, address: str, folder: Path) -> None:
        self.what, self.address = what, address
        self._log = folder / f"{what.name}.log"
        inside = [*IMAGES[what.image], *(what.command or COMMANDS[what.image])]
        command = shlex.join([*_as_user(what, *DIES_WITH_ITS_PARENT), *inside])
        script = folder / f"{what.name}.sh"
        script.write_text(_as_root(what, folder) + f"read -r plugged_in\nexec chroot /mnt {command} < /dev/null\n")
        namespaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=SIGKILL"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", *DIES_WITH_ITS_PARENT, "unshare", *namespaces, "sh", "-e", str(script)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self.pid = int(eventually(lambda: children.read_text().split() or self._ended(), self.said)[0])

    def go(self) -> None:
        """Its network is there: begin."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.close()

    def _ended(self) -> list[str]:
        assert self._process.poll() is None, self.said()
        return []

    def said(self) -> str:
        """Its log."""
        return f"{self.what.name}:\n{self._log.read_text(errors='replace')[-6000:]}"

    def connect(self, port: int) -> socket.socket:
        """A connection from within it to its own port, which waits for as long as ``run`` does. Raises OSError."""
        return in_network(f"/proc/{self.pid}/ns/net", lambda: socket.create_connection(("127.0.0.1", port), BOUND))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another command in it, as ``docker compose exec`` has it; one that does not end is as one that fails."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        bounded = ["timeout", "--signal=KILL", f"{BOUND:g}", *enter, *_as_user(self.what), *command]
        return subprocess.run(bounded, capture_output=True, text=True)

    def is_well(self) -> bool:
        """What its health check says."""
        return not self.ended and self.run(*self.what.health).returncode == 0

    @property
    def ended(self) -> bool:
        """Whether its first process has."""
        return self._process.poll() is not None

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send its first process a signal, and wait for its end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
        self._process.wait(PATIENCE)


def _as_user(what: Container, *more: str) -> list[str]:
    environment = {"PATH": f"/image:{binaries()}:{os.environ['PATH']}", "HOME": "/data", "PYTHONPATH": str(ROOT)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **what.environment}
    user = [f"--reuid={what.user}", f"--regid={what.user}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    return ["setpriv", *user, *more, "env", "-i", *(f"{name}={value}" for name, value in environment.items())]


def _as_root(what: Container, folder: Path) -> str:
    """A script that makes the container's root folder, in /mnt, of which it can write the mounts that it may write."""
    lines = [QUICK, f"hostname {what.name}", "mount --make-rprivate /"]
    lines += ["mount -t tmpfs -o mode=755 root /mnt", "cd /mnt"]
    for name in SYSTEM:
        if (path := Path("/", name)).is_symlink():
            lines.append(f"ln -s {path.readlink()} {name}")
        elif path.is_dir():
            lines.append(f"mkdir {name}; mount --rbind {path} {name}")
    lines += ["mkdir -p proc run/secrets var image; ln -s ../run var/run; mount -t proc proc proc"]
    lines += ["chmod 755 run; mount -t tmpfs -o size=1g,mode=1777 shm dev/shm"]
    # The deeper ones later: one may be seen below another.
    for target in sorted(what.memory):
        lines.append(f"mkdir -p .{target}; mount -t tmpfs -o mode=1777 memory .{target}")
    here = {ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    mounts = {str(path): path for path in here} | dict(what.mounts) | {"/image": folder / "image"}
    mounts |= {f"/etc/{name}": folder / name for name in ("passwd", "resolv.conf", "hosts")}
    for target, source in sorted(mounts.items()):
        if source.is_dir():
            lines.append(f"mkdir -p .{target}")
        else:
            lines.append(f"mkdir -p .{os.path.dirname(target)}; test -e .{target} || touch .{target}")
        lines.append(f"mount --bind {shlex.quote(str(source))} .{target}")
    return "\n".join([*lines, "mount -o remount,ro,bind /mnt", ""])


class Machines:
    """The containers of an example, on a network of their own: ``subnet`` is its first three numbers."""

    def __init__(self, folder: Path, subnet: str) -> None:
        self.folder, self._subnet = folder, subnet
        self._stack = ExitStack()
        self._free, self._ports = iter(range(20, 200)), count()
        self._names: dict[str, set[str]] = {}
        self.running: dict[str, Running] = {}
        number = os.getpid() % 250
        self.near, self.door = f"10.198.{number}.1", f"10.198.{number}.2"

    def __enter__(self) -> "Machines":
        with ExitStack() as stack:
            self._stack = stack
            # A namespace without a name is gone with the last process in it, and its cards with it.
            held = subprocess.Popen(["setpriv", *DIES_WITH_ITS_PARENT, "unshare", "--net", "sleep", "infinity"])
            stack.callback(held.wait)
            stack.callback(held.kill)
            self._switch = held.pid
            ours = os.stat("/proc/self/ns/net").st_ino
            eventually(lambda: os.stat(f"/proc/{held.pid}/ns/net").st_ino != ours)
            # One without an address of its own has its lowest card's, and another one once that card is gone: whoever
            # knows the old one asks for a name then, and hears nothing for longer than it waits.
            _ip(self._switch, "link", "add", "bridge", "address", "02:00:00:00:00:01", "type", "bridge")
            _ip(self._switch, "addr", "add", f"{self._subnet}.1/24", "dev", "bridge")
            _ip(self._switch, "link", "set", "bridge", "up")
            questions = in_network(
                f"/proc/{self._switch}/ns/net", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            )
            questions.bind((f"{self._subnet}.1", 53))
            stack.enter_context(NameServer(questions, self._names))
            stack.callback(self._end)
            users = [f"{name}:x:{number}:{number}::/:/bin/sh\n" for name, number in USERS.items()]
            (self.folder / "passwd").write_text("".join(users))
            (self.folder / "hosts").write_text("127.0.0.1 localhost\n")
            (self.folder / "resolv.conf").write_text(f"nameserver {self._subnet}.1\nsearch {SEARCH}\n")
            self._make_image(self.folder / "image")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        for one in self.running.values():
            one.kill()

    def _make_image(self, folder: Path) -> None:
        """What the image of ours has in /usr/local/bin."""
        folder.mkdir()
        python = Path(sys.prefix, "bin", "python")
        programs = {"python3": "", "flserver": "-m flserver", "ray": "-m ray.scripts.scripts"}
        for name, what in programs.items():
            (folder / name).write_text(f'#!/bin/sh\nexec {python} {what} "$@"\n')
            (folder / name).chmod(0o755)
        for name in ("on-ray", "serve"):
            (folder / name).write_bytes((ROOT / "ops" / "container" / name).read_bytes())
            (folder / name).chmod(0o755)

    def start(self, what: Container) -> Running:
        """Start one; the same name again is the same container again, with its address."""
        before = self.running.get(what.name)
        address = before.address if before else what.address or f"{self._subnet}.{next(self._free)}"
        running = self.running[what.name] = Running(what, address, self.folder)
        self._plug_in(running)
        running.go()
        for name in (what.name, *what.names):
            self._names.setdefault(name, set()).add(address)
        return running

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one, as the engine does: its name is nobody's then."""
        self.running[name].kill(number)
        for addresses in self._names.values():
            addresses.discard(self.running[name].address)

    def _plug_in(self, running: Running) -> None:
        pid, near = running.pid, f"port{next(self._ports)}"
        _ip(self._switch, "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _ip(self._switch, "link", "set", near, "master", "bridge", "up")
        _ip(pid, "addr", "add", f"{running.address}/24", "dev", "eth0")
        for card in ("eth0", "lo"):
            _ip(pid, "link", "set", card, "up")
        if running.what.outside:
            here = f"fl{os.getpid()}o{near[4:]}"[-15:]
            _ip(None, "link", "add", here, "type", "veth", "peer", "name", "eth1", "netns", str(pid))
            self._stack.callback(subprocess.run, ["ip", "link", "del", here], capture_output=True)  # it may be gone
            _ip(None, "addr", "add", f"{self.near}/24", "dev", here)
            _ip(None, "link", "set", here, "up")
            _ip(pid, "addr", "add", f"{self.door}/24", "dev", "eth1")
            _ip(pid, "link", "set", "eth1", "up")


SEARCH = "flserver.svc.cluster.local"


def _ip(pid: int | None, *words: str) -> None:
    """In the network of that process, or in ours."""
    there = [] if pid is None else ["nsenter", f"--net=/proc/{pid}/ns/net"]
    done = subprocess.run([*there, "ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)
