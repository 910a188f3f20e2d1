"""A Ray cluster of this machine alone, on loopback and with a token; its processes end with the tests."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE, eventually

START = """
import ctypes, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: whatever ends the tests ends the cluster
from ray.scripts.scripts import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator["RayCluster"]:
    """One for all tests: it takes its time to start. Each run has a namespace of its own there."""
    cluster = RayCluster()
    yield cluster
    cluster.close()


TRIES = 3
GAVE_UP = "Timed out waiting for file"  # what Ray's own process says that ends where others of it took 15 s to start


class RayCluster:
    """``env`` is what a server needs to join it at ``address``."""

    def __init__(self) -> None:
        self.env = {
            "RAY_AUTH_MODE": "token",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback is then an address like any other
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        for _ in range(TRIES):
            self._start()
            try:
                if eventually(self._found, self.said) == "there":
                    return
            except BaseException:
                self.close()
                raise
            said = self.said()
            self.close()
        raise AssertionError(f"a busy machine: Ray gave up {TRIES} times: {said[-3000:]}")

    def _start(self) -> None:
        from tests.e2e.harness import free_port

        self.folder = Path(tempfile.mkdtemp(prefix="fl-ray-"))  # sockets lie there: their names are to be short
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        token.chmod(0o600)
        self.env["RAY_AUTH_TOKEN_PATH"] = str(token)
        port, client_port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        options = ["--head", "--block", "--no-monitor", "--include-dashboard=false", "--include-log-monitor=false"]
        options += ["--disable-usage-stats", "--num-cpus=8", "--num-gpus=0", f"--object-store-memory={200 << 20}"]
        options += ["--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={client_port}"]
        options += [f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder}"]
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        patience = {"RAY_raylet_start_wait_time_s": str(int(PATIENCE))}
        self.log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, "start", *options],
            env=os.environ | self.env | patience | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _found(self) -> str | None:
        """Whether it is ``there``, or has given up and is ``gone``; None while neither is known."""
        if "Ray runtime started" in self.said():
            return "there"
        said = (
            log.read_text(encoding="utf-8", errors="replace") for log in self.folder.glob("session_2*/logs/raylet.*")
        )
        if any(GAVE_UP in text for text in said):
            return "gone"
        assert self._process.poll() is None, self.said()[-3000:]
        return None

    def said(self) -> str:
        """Its log."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End all of its processes."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
