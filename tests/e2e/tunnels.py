"""Real forwarders, configured by the very files that ``ops/`` has for them."""

import contextlib
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

from flserver.clock import Deadline
from tests.e2e.harness import TESTS, ServerProcess, free_port
from tests.machines import Machine
from tests.patience import PATIENCE, eventually

OPS = TESTS.parent / "ops"


def changed(text: str, settings: dict[str, str]) -> str:
    """A configuration with other values in it: each ``before`` must be there, once."""
    for before, after in settings.items():
        assert len(re.findall(f"(?m){before}", text)) == 1, f"{before!r} is not there once in:\n{text}"
        text = re.sub(f"(?m){before}", after, text)
    return text


class Forwarding:
    """A forwarder as a child process, listening on ``port``; its log lines as they come."""

    def __init__(self, *command: str, folder: Path, port: int, on: Machine | None = None) -> None:
        self.port = port
        self.lines: list[str] = []
        self._more = threading.Condition()
        streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = (
            subprocess.Popen(command, cwd=folder, text=True, **streams)
            if on is None
            else on.start(*command, cwd=folder, **streams)
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def __enter__(self) -> "Forwarding":
        try:
            self.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def ready(self) -> None:
        """Wait until it listens."""
        raise NotImplementedError

    def wait_for_line(self, pattern: str, count: int = 1) -> None:
        """Wait until as many log lines match."""
        deadline = Deadline.after(PATIENCE)
        with self._more:
            while sum(1 for line in self.lines if re.search(pattern, line)) < count:
                log = "\n".join(self.lines)
                assert self._reader.is_alive(), f"it has ended:\n{log}"
                assert not deadline.passed, f"no line {pattern!r} in:\n{log}"
                self._more.wait(0.5)

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)


class Stunnel(Forwarding):
    """stunnel beside a trainer. ``folder`` is what ``ops/certificates`` makes for a client, ``name`` what its server is
    called, ``more`` lines that the configuration does not have.
    """

    def __init__(self, connect: int, folder: Path, name: str, *more: str) -> None:
        port = free_port()
        text = changed(
            (OPS / "stunnel" / "trainer.conf").read_text(),
            {
                r"^accept = .*$": f"accept = 127.0.0.1:{port}",
                r"^connect = .*$": f"connect = 127.0.0.1:{connect}",
                r"^checkHost = .*$": f"checkHost = {name}",
                # It then tells when it listens, and why a connection ended.
                r"^foreground = yes$": "foreground = yes\ndebug = info",
            },
        )
        (folder / "trainer.conf").write_text("\n".join([text, *more, ""]))
        super().__init__("stunnel", "trainer.conf", folder=folder, port=port)

    def ready(self) -> None:
        self.wait_for_line("Service .* bound to")


class HaProxy(Forwarding):
    """HAProxy in front of a server. ``folder`` is what ``ops/certificates`` makes for the server."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        port = free_port()
        text = changed(
            (OPS / "haproxy" / "flserver.cfg").read_text(),
            {
                r"bind :50053 ": f"bind 127.0.0.1:{port} ",
                r"flserver 127\.0\.0\.1:50052 ": f"flserver 127.0.0.1:{server.port} ",
                r"metrics 127\.0\.0\.1:9464": f"metrics 127.0.0.1:{server.metrics_port}",
            },
        )
        (folder / "flserver.cfg").write_text(text)
        super().__init__("haproxy", "-f", "flserver.cfg", folder=folder, port=port)

    def ready(self) -> None:
        eventually(self._listens, lambda: "HAProxy does not listen:\n" + "\n".join(self.lines))

    def _listens(self) -> bool:
        assert self.process.poll() is None, "HAProxy has ended:\n" + "\n".join(self.lines)
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False
