"""What is said of a Ray cluster before anything is made: one line, and of what is wrong."""

import platform
import subprocess
from importlib.metadata import version
from typing import Any

import pytest

from flserver.errors import UsageError
from flserver.process.ray import room as ray_room
from flserver.process.ray.room import ask, is_here, problem_of, require_room
from tests.ray_cluster import RayCluster

RAY = "2.60.0"
HERE = {"address": "127.0.0.1", "cpus": 2.0}
ELSEWHERE = {"address": "192.0.2.7", "cpus": 1.0}  # RFC 5737: nobody's


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_room, "version", lambda name: RAY)


def told(*machines: dict[str, Any], python: str = platform.python_version(), ray: str = RAY) -> dict[str, Any]:
    return {"python": python, "ray": ray, "machines": list(machines)}


def test_there_is_room_for_as_many_as_each_machine_has_whole_places() -> None:
    assert problem_of(told(HERE, ELSEWHERE), 6) is None
    said = problem_of(told(HERE, ELSEWHERE, {"address": "192.0.2.8", "cpus": 0.4}), 7)
    assert said is not None
    assert said.startswith("--ingest 7 are more nodes than the 6 that have room there")
    assert "3 machines have 3.4" in said


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (told(HERE, python="3.9.1"), "the cluster has Python 3.9.1 and Ray 2.60.0, and this machine Python"),
        (told(HERE, ray="2.59.0"), "and Ray 2.59.0, and this machine"),
        (told(ELSEWHERE), "does not belong to the cluster, whose machines are 192.0.2.7"),
        (told(), "does not belong to the cluster, whose machines are none"),
        ({"error": "AuthenticationError", "said": "no"}, "there is no token here, or another one"),
        ({"error": "exit code -6", "said": "C RAY_AUTH_TOKEN_PATH is\nnot readable"}, "there is no token here"),
        ({"error": "Timeout", "said": "nothing\nat all"}, "no Ray cluster that can be asked; Ray says: nothing at all"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(cluster: dict[str, Any], said: str) -> None:
    found = problem_of(cluster, 1)
    assert found is not None
    assert said in found
    assert "\n" not in found


def test_a_cluster_without_tokens_is_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(ray_room, "ask", lambda address: pytest.fail("it was asked"))
    with pytest.raises(UsageError, match="RAY_AUTH_MODE=disabled: who reaches"):
        require_room("127.0.0.1:1", 1)


def test_who_asks_may_say_nothing_or_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray may end the process that asks, whatever that would have said."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert ask("127.0.0.1:1")["error"] == "exit code 1"

    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("it", 1)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(UsageError, match=r"--ray-address 127\.0\.0\.1:1: what answers there is no Ray cluster"):
        require_room("127.0.0.1:1", 1)


def test_an_address_is_this_machines_or_not() -> None:
    assert is_here("127.0.0.1")
    assert not is_here("192.0.2.7")


@pytest.mark.ray
def test_a_cluster_is_asked_and_not_joined(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has 8 CPUs, of this machine."""
    for name, value in ray_cluster.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray_room, "version", version)
    require_room(ray_cluster.address, 16)
    with pytest.raises(UsageError, match="--ingest 17 are more nodes than the 16 that have room"):
        require_room(ray_cluster.address, 17)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(UsageError, match=r"there is no token here, or another one.*~/.ray/auth_token\)$"):
        require_room(ray_cluster.address, 1)


@pytest.mark.ray
def test_a_token_that_cannot_be_read_ends_who_asks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    said = problem_of(ask("127.0.0.1:1"), 1)
    assert said is not None
    assert "there is no token here, or another one" in said
