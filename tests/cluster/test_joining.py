"""Who listens at ``--ray-address`` and is no cluster is found out, and waited for no longer than is bearable."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from flserver.cluster import ray as clusters
from flserver.cluster.ray import Cluster, check_cluster
from flserver.errors import EXIT_USAGE, UsageError
from tests.listening import SETTINGS, listening
from tests.patience import PATIENCE

NO_CLUSTER = "who listens there does not answer as a Ray cluster"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.cluster.ray.find_spec", lambda name: name)
    monkeypatch.setattr(clusters, "SPEAK_SECONDS", 0.5)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        (b"", False),
        (b"", True),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True),
        (SETTINGS[:5], False),
        (SETTINGS[:5], True),
        (bytes((0, 0, 0, 4, 1, 0, 0, 0, 0)), False),
    ],
    ids=["nothing", "its end", "another protocol", "HTTP/1.1", "half a frame", "half a frame and its end", "an answer"],
)
def test_who_does_not_speak_as_a_cluster_does_is_none(asked: None, said: bytes, ends: bool) -> None:
    with (
        listening(said, ends=ends) as address,
        pytest.raises(UsageError, match=rf"^--ray-address {address}: {NO_CLUSTER}"),
    ):
        check_cluster(address)


def test_who_speaks_as_one_may_be_one(asked: None) -> None:
    with listening(SETTINGS + b"\0\0\0") as address:
        check_cluster(address)


def test_what_a_cluster_with_tls_says_is_rays_to_read(asked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"") as address:
        check_cluster(address)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have Ray wait in vain, until that event."""
    over = threading.Event()
    ray: Any = SimpleNamespace(is_initialized=lambda: False, init=lambda **_: over.wait(), shutdown=lambda: None)
    monkeypatch.setattr(clusters, "load_ray", lambda: ray)
    monkeypatch.setattr(clusters, "JOIN_SECONDS", 0.1)
    monkeypatch.setattr(Cluster, "left_waiting", False)
    yield over
    over.set()
    for thread in threading.enumerate():
        if thread.name == "ray-joins":
            thread.join()


def test_who_cannot_be_joined_is_waited_for_no_longer_than_is_bearable(never: threading.Event) -> None:
    with pytest.raises(UsageError, match=rf"^--ray-address 10\.0\.0\.1:6379: {NO_CLUSTER} \(nothing within 0\.1 s\)"):
        Cluster("10.0.0.1:6379", "run")
    assert Cluster.left_waiting, "Python's end would wait for the thread, or crash it"
    (waiting,) = (thread for thread in threading.enumerate() if thread.name == "ray-joins")
    assert waiting.daemon


PLAYS = """
import sys
from flserver.cluster import ray as clusters
clusters.JOIN_SECONDS = 1.0
from flserver.__main__ import main
sys.argv = ["flserver", "simulate", "--trainers", "1", "--ray-address", sys.argv[1]]
main()
"""


@pytest.mark.ray
def test_a_process_ends_whose_ray_waits_in_vain() -> None:
    """Ray itself tries for a quarter of an hour."""
    with listening(SETTINGS) as address:
        command, env = [sys.executable, "-c", PLAYS, address], os.environ | {"RAY_AUTH_TOKEN": "0" * 64}
        done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == EXIT_USAGE, done.stderr.decode()
    assert f"--ray-address {address}: {NO_CLUSTER} (nothing within 1 s)".encode() in done.stderr
