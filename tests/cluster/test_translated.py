"""What Ray raises of its own is an error of ours, whatever it was asked for."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import pytest

from flserver.cluster.ray import ActorGone, ActorLate, Cluster
from tests.recorder import raising


class Probe:
    """What an actor could be made of."""

    apart: ClassVar[Mapping[str, str]] = {}


class RayError(Exception):
    """Whatever Ray knows that it raises."""


class GetTimeoutError(RayError):
    """There is no answer yet."""


def cluster(**raised: Exception) -> Cluster:
    """One that has not joined any, of whose Ray these functions raise that."""
    with mock.patch.object(Cluster, "_join"), mock.patch("flserver.cluster.ray.load_ray") as load_ray:
        errors = SimpleNamespace(RayError=RayError, GetTimeoutError=GetTimeoutError)
        functions = {name: raising(error) for name, error in raised.items()}
        load_ray.return_value = SimpleNamespace(**functions, exceptions=errors)
        return Cluster("10.0.0.1:6379", "run")


def actor(error: Exception) -> Any:
    return SimpleNamespace(give=SimpleNamespace(remote=raising(error)))


@pytest.mark.parametrize(
    "ask",
    [
        lambda error: cluster(get_actor=error).find("node-1"),
        lambda error: cluster(remote=error).make(Probe, "node-1"),
        lambda error: cluster(remote=error).make_own(Probe),
        lambda error: cluster(put=error).put(b"a model"),
        lambda error: cluster().call(actor(error), "give", b"a batch"),
        lambda error: cluster(wait=error).answered("a batch", 0.0),
        lambda error: cluster(wait=error).is_made("a cut"),
        lambda error: cluster(get=error).get("a batch", 0.0),
        lambda error: cluster(get=error).get_all(["a batch"], 0.0),
        lambda error: cluster(get_runtime_context=error).machine,
        lambda error: cluster(get_runtime_context=error).watch(lambda why: None),
        lambda error: cluster(nodes=error).machines,
        lambda error: cluster(cluster_resources=error).processors,
    ],
    ids=[
        *("find", "make", "make_own", "put", "call", "answered", "is_made", "get", "get_all"),
        *("machine", "watch", "machines", "processors"),
    ],
)
def test_an_error_of_rays_own_is_one_of_ours_with_its_words(ask: Callable[[Exception], object]) -> None:
    with pytest.raises(ActorGone, match="Ray says: RuntimeError: the object store is full") as found:
        ask(RuntimeError("the object\nstore is full"))
    assert isinstance(found.value.__cause__, RuntimeError)


def test_that_there_is_no_actor_of_a_name_is_no_error() -> None:
    assert cluster(get_actor=ValueError("no such actor")).find("node-1") is None


def test_an_answer_that_goes_from_one_machine_to_another_is_made_though_it_is_not_here() -> None:
    def wait(references: list[str], *, timeout: float, fetch_local: bool = True) -> tuple[list[str], list[str]]:
        assert timeout == 0.0
        return ([], references) if fetch_local else (references, [])

    asked = cluster()
    asked._ray.wait = wait
    assert (asked.answered("a cut", 0.0), asked.is_made("a cut")) == (False, True)


def test_an_actor_that_is_late_or_has_died_is_said_to_be_so() -> None:
    with pytest.raises(ActorLate, match=r"^it has not answered within 2 s$"):
        cluster(get=GetTimeoutError()).get("a batch", 2.0)
    for ask in (lambda asked: asked.get("a batch", 0.0), lambda asked: asked.answered("a batch", 0.0)):
        with pytest.raises(ActorGone, match=r"^its process died \(RayError\)$"):
            ask(cluster(get=RayError(), wait=RayError()))
