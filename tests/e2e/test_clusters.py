"""The examples of a run in containers and pods, started from their own files: rounds through HAProxy, a server that is
killed, another that goes on."""

import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Protocol

import pytest

from flserver.clock import Deadline
from tests.e2e.compiled import compiled_before
from tests.e2e.compose_file import ComposeFile
from tests.e2e.containers import ROOT, USERS, Container, Machines, Running
from tests.e2e.harness import Peer
from tests.e2e.manifests import Manifests
from tests.patience import PATIENCE

pytestmark = [pytest.mark.network_namespace, pytest.mark.haproxy, pytest.mark.postgres, pytest.mark.ray]

CHANGED = {"FLSERVER_TIME_TO_WAIT": "1", "FLSERVER_NUM_ROUNDS": "3", "RAY_STORE_BYTES": "100000000"}
"""What somebody who uses the examples may set, as they say themselves."""
ASKED_AGAIN = 2.0  # seconds after which a question that HAProxy sent to one that is gone is asked again
OURS = {"XDG_CACHE_HOME": "/cache"}
"""What is not in them: arithmetic that other tests have compiled."""
BOUND = 240.0
"""Seconds, for all of it: so that what hangs is told with all logs, before whoever runs the tests loses patience."""

HEALTH_PORT = 9464


class Example(Protocol):
    """Files that say which containers there are to be, on which network."""

    subnet: str

    def containers(self) -> list[Container]: ...


class Trainer(Peer):
    """One who comes to HAProxy with its certificate, and back when it is cut off, as one that something keeps running.
    It answers the first model, and others once ``goes_on`` is set."""

    def __init__(self, door: str, client: int, secrets: Path, goes_on: threading.Event) -> None:
        own = secrets / "trainers" / "clients" / str(client)
        self._door, self._context = door, ssl.create_default_context(cafile=secrets / "trainers-ca.crt")
        self._context.load_cert_chain(own / "client.crt", own / "client.key")
        self._goes_on = goes_on
        self.port, self.client_id, self.data_size = 50052, client, 100
        self.over = False
        self.connection = socket.socket()  # until it is connected
        self._thread = threading.Thread(target=self._take_part)

    def connect(self) -> socket.socket:
        plain = socket.create_connection((self._door, self.port), timeout=BOUND)
        return self._context.wrap_socket(plain, server_hostname=self._door)

    def end_of_upload(self, upload: socket.socket) -> None:
        """Nothing: what was shut down reads nothing that is under TLS."""

    def __enter__(self) -> "Trainer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._goes_on.set()
        self.over = True
        while self._thread.is_alive():  # it may be about to connect again
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            self._thread.join(0.1)
        self.connection.close()

    def _take_part(self) -> None:
        pause, models = threading.Event(), 0
        while not self.over:
            with suppress(OSError, EOFError, AssertionError):  # an answer to what the server before had sent is refused
                self.connection.close()
                self.connection = self.connect()
                if self.register()["header"] == "<SUCCESS>":
                    while (message := self.message())["header"] == "<MODEL>":
                        if models:
                            self._goes_on.wait()
                        models += 1
                        self.upload(message["model"])
                    self.over = message.get("complete", True)
            pause.wait(0 if self.over else 0.5)


def cache_in(folder: Path) -> Path:
    """What tests have compiled, as the image's user's own."""
    cache = folder / "cache"
    compiled_before(cache)
    for path in (cache, *cache.rglob("*")):
        os.chown(path, USERS["flserver"], USERS["flserver"])
    return cache


def adapted(container: Container, cache: Path) -> Container:
    if container.image != "flserver":
        return container
    environment = {**container.environment, **OURS}
    return replace(container, environment=environment, mounts={**container.mounts, "/cache": cache})


def serves_and_outlives_its_server(
    tmp_path: Path, example: Callable[[Path, Path], Example], subnet: str, first: str, second: str
) -> None:
    """``first`` and ``second`` are the containers of the servers, of which the first one is killed."""
    tmp_path.chmod(0o755)
    with Machines(tmp_path, subnet) as machines, ExitStack() as stack:
        secrets = tmp_path / "secrets"
        command = [ROOT / "ops" / "container" / "secrets", secrets, machines.door, "1=Hospital Lund", "2=Hospital Umeå"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)
        cache = cache_in(tmp_path)
        found = {one.name: adapted(one, cache) for one in example(secrets, tmp_path / "volumes").containers()}
        deadline = Deadline.after(BOUND)

        def logs() -> str:
            return "\n\n".join(one.said() for one in machines.running.values())

        def soon(holds: Callable[[], Any]) -> Any:
            while not (found := holds()):
                assert not deadline.passed, logs()
                time.sleep(0.4)
            return found

        def answered(name: str) -> Mapping[str, Any]:
            """What its own /healthz says, from within; nothing where that is not well."""
            with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", HEALTH_PORT)) as asking:
                asking.sock = machines.running[name].connect(HEALTH_PORT)
                asking.request("GET", "/healthz")
                answer = asking.getresponse()
                return dict(json.load(answer)) if answer.status == HTTPStatus.OK else {}
            return {}

        def well(name: str) -> bool:
            """Whether it is; one that has failed is started again, as all restart policies have it."""
            if machines.running[name].code:
                machines.start(found[name])
            # The check starts a Python, each time, where asking from here costs nothing.
            asked = any("/healthz" in word for word in found[name].health)
            return (not asked or bool(answered(name))) and machines.running[name].is_well()

        def over(running: Running) -> bool:
            assert not running.code, logs()
            return running.ended

        # One after another, or they would have each other's time; but Ray's head needs no database.
        (postgres,) = [name for name, container in found.items() if container.image == "postgres"]
        machines.start(found[postgres])
        for name in [name for name in found if name != postgres]:
            machines.start(found[name])
            soon(partial(well, name))
            soon(partial(well, postgres))

        def at_the_door() -> Mapping[str, Any]:
            url = f"http://{machines.door}:{HEALTH_PORT}/healthz"
            # HAProxy goes on asking one that has just been lost, for longer.
            with suppress(OSError), urllib.request.urlopen(url, timeout=ASKED_AGAIN) as answer:
                return dict(json.load(answer))
            return {}

        goes_on = threading.Event()
        trainers = [stack.enter_context(Trainer(machines.door, client, secrets, goes_on)) for client in (1, 2)]
        # Of the same answer: the next one may be that of who stands by, and knows of no run yet.
        run_id = soon(lambda: (said := at_the_door()).get("round") == 2 and said["run_id"])
        soon(lambda: answered(second).get("status") == "standing by")
        soon(lambda: answered(second).get("run_id") == run_id)
        machines.kill(first)
        soon(lambda: at_the_door().get("run_id") == run_id)
        soon(lambda: answered(second).get("status") == "ok")
        # What the engine does with one that ended so; it does not take the run back.
        machines.start(found[first])
        soon(partial(well, first))
        soon(lambda: answered(first).get("run_id") == run_id)
        soon(lambda: answered(first).get("status") == "standing by")
        goes_on.set()
        soon(lambda: over(machines.running[second]) and over(machines.running[first]))
        soon(lambda: all(trainer.over for trainer in trainers))

        def sql(query: str) -> list[list[str]]:
            done = machines.running[postgres].run("psql", "--username=postgres", "--dbname=runs", "-Atc", query)
            assert done.returncode == 0, done.stderr
            return [line.split("|") for line in done.stdout.splitlines()]

        proxy = next(one for name, one in machines.running.items() if name.startswith("haproxy"))
        committed = "SELECT round, updates_accepted FROM v1_rounds WHERE status = 'committed' ORDER BY round"
        assert sql(committed)[1:] == [["1", "2"], ["2", "2"], ["3", "2"]]
        assert sql("SELECT DISTINCT identity FROM v1_updates WHERE decision = 'accepted'") == [["authenticated"]]
        came = "SELECT DISTINCT peer_host, proxy_host FROM v1_connections WHERE client_id IS NOT NULL"
        assert sql(came) == [[machines.near, proxy.address]]
        assert sql("SELECT count(*) FROM v1_operator_events WHERE kind = 'resume' AND reason LIKE 'took over%'") == [
            ["1"]
        ]
        checked = machines.start(replace(found[first], name=first, command=("flserver", "verify"), outside=False))
        soon(lambda: over(checked))


def test_the_compose_file_serves_a_run_and_outlives_its_server(tmp_path: Path) -> None:
    path = ROOT / "ops" / "container" / "cluster.yml"

    def example(secrets: Path, folder: Path) -> ComposeFile:
        return ComposeFile(path, CHANGED | {"SECRETS": str(secrets)}, folder)

    subnet = example(tmp_path, tmp_path).subnet
    serves_and_outlives_its_server(tmp_path, example, subnet, "coordinator", "standby")


def test_the_pods_of_kubernetes_serve_a_run_and_outlive_its_server(tmp_path: Path) -> None:
    def example(secrets: Path, folder: Path) -> Manifests:
        return Manifests(ROOT / "ops" / "kubernetes", CHANGED, secrets, folder)

    serves_and_outlives_its_server(tmp_path, example, Manifests.subnet, "server-0", "server-1")
