"""Models and parts of them between the nodes of one machine: who gets what, and nothing is left where one goes."""

import errno
import os
import threading
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flserver.aggregation.ranges import in_range, ranges
from flserver.clock import monotonic
from flserver.errors import NoRoom, StoreError
from flserver.ingest.engine import NodeGone
from flserver.ingest.patience import BEYOND_STOP
from flserver.models.state import State
from flserver.process.nodes import called as called_nodes
from flserver.process.nodes import calls, values
from flserver.process.nodes.called import UNTAKEN, CalledNodes
from flserver.process.nodes.calls import Answer, CallFailed
from flserver.process.nodes.descriptors import close_all
from flserver.process.nodes.values import memory_of, put, state_in
from tests.patience import PATIENCE, eventually
from tests.process.nodes.calling import between, descriptors
from tests.recorder import raising

MODEL: State = {"w": torch.arange(9000, dtype=torch.float32), "n": torch.tensor([3, 4])}


def engine(least: int = 0, stops_at: float | None = None) -> CalledNodes:
    made = CalledNodes(lambda: stops_at)
    made.least = least
    return made


def test_a_model_is_one_file_for_all_nodes() -> None:
    before, files, nodes = descriptors(), list[int](), engine()
    given: dict[str, State] = {}

    def takes(name: str) -> calls.Does:
        def model(values: list[Any], taken: list[int]) -> Answer:
            files.append(os.fstat(taken[0]).st_ino)
            given[name] = state_in(memory_of(taken[0]), values[1])
            close_all(taken)
            return [], ()

        return model

    with ExitStack() as stack:
        for name in ("node-1", "node-2"):
            caller, _ = stack.enter_context(between({"model": takes(name)}, name))
            nodes.add(caller)
        nodes.carry(7, MODEL)
        assert [nodes.brings(number, name) for number, name in ((7, "node-1"), (7, "node-2"))] == [True, True]
        assert [nodes.brings(6, "node-1"), nodes.brings(7, "node-3")] == [False, False], "those go over lines"
        eventually(lambda: len(given) == 2)
        assert len(set(files)) == 1
        assert all(torch.equal(state[name], MODEL[name]) for state in given.values() for name in MODEL)
        nodes.close()
    assert descriptors() == before


@pytest.mark.parametrize("why", ["small", "no memory"])
def test_a_model_that_is_small_or_finds_no_place_goes_over_the_lines(
    why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if why == "no memory":
        monkeypatch.setattr(os, "memfd_create", raising(OSError(12, "Cannot allocate memory")))
    nodes = engine(least=0 if why == "no memory" else 1 << 20)
    with between({}) as (caller, _):
        nodes.add(caller)
        nodes.carry(1, MODEL)
        assert not nodes.brings(1, "node-1")
        nodes.close()
    assert ("the model goes over the nodes' lines: Cannot allocate memory" in caplog.text) == (why == "no memory")


def test_who_has_not_taken_the_models_before_gets_the_next_one_by_its_line() -> None:
    goes, nodes = threading.Event(), engine()

    def model(values: list[Any], taken: list[int]) -> Answer:
        assert goes.wait(PATIENCE)
        close_all(taken)
        return [], ()

    with between({"model": model}) as (caller, _):
        nodes.add(caller)
        brought = []
        for number in range(UNTAKEN + 1):
            nodes.carry(number, MODEL)
            brought.append(nodes.brings(number, "node-1"))
        assert brought == [True] * UNTAKEN + [False]
        goes.set()
        nodes.carry(9, MODEL)
        assert eventually(lambda: nodes.brings(9, "node-1"))
        nodes.close()


def test_who_cannot_take_a_model_is_gone_and_who_answers_no_more_gets_none() -> None:
    nodes, lost = engine(), list[str]()
    with between({"model": raising(CallFailed("no room to map it"))}) as (caller, answering):
        caller.lost = lost.append
        nodes.add(caller)
        nodes.carry(1, MODEL)
        nodes.brings(1, "node-1")
        assert eventually(lambda: lost == ["it could not take a model: no room to map it"])
        eventually(lambda: caller.over and not answering._thread.is_alive())
        nodes.carry(2, MODEL)
        assert not nodes.brings(2, "node-1")
        nodes.close()
    assert len(lost) == 1


def part(values: list[Any], taken: list[int]) -> Answer:
    """Something of every range that is asked for."""
    close_all(taken)
    *_, wanted = values
    descriptor, found = put([{"w": torch.ones(1)} for _ in wanted])
    return [[[number, one.tensors] for number, one in zip(wanted, found, strict=True)]], [descriptor]


def made(values: list[Any], taken: list[int]) -> Answer:
    """The range that is asked for, whatever the others have of it."""
    close_all(taken)
    _, _, count, number, _ = values
    descriptor, (value,) = put([in_range(MODEL, ranges(MODEL, count)[number])])
    return [value.tensors], [descriptor]


def test_what_each_node_has_cut_is_one_file_here_for_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before, nodes = descriptors(), engine()
    taken_at = list[int]()

    def takes(values: list[Any], taken: list[int]) -> Answer:
        taken_at.append(len(taken))
        return made(values, taken)

    with ExitStack() as stack:
        names = [f"node-{number}" for number in range(1, 5)]
        for name in names:
            caller, _ = stack.enter_context(between({"cut": part, "made": takes}, name))
            nodes.add(caller)
        nodes.carry(1, MODEL)
        monkeypatch.setattr(os, "dup", raising(OSError(errno.EMFILE, "Too many open files")))
        state = nodes.finish(1, 1, names, 1)
        assert all(torch.equal(state[name], MODEL[name]) for name in MODEL)
        assert taken_at == [len(names) - 1] * len(ranges(MODEL, len(names)))
        nodes.close()
    eventually(lambda: descriptors() == before)


@pytest.mark.parametrize("during", ["cut", "made"])
def test_a_node_that_goes_while_a_model_is_made_is_named_and_no_file_stays(during: str) -> None:
    before, nodes = descriptors(), engine()

    def dies(values: list[Any], taken: list[int]) -> Answer:
        calls.cut(ends[1]._socket)
        return part(values, taken) if during == "cut" else made(values, taken)

    with ExitStack() as stack:
        ends = []
        for number in (1, 2):
            does = {"cut": part, "made": made} | ({during: dies} if number == 2 else {})
            caller, answering = stack.enter_context(between(does, f"node-{number}"))
            ends.append(answering)
            nodes.add(caller)
        nodes.carry(1, MODEL)
        with pytest.raises(NodeGone) as gone:
            nodes.finish(1, 1, ["node-1", "node-2"], 1)
        assert (gone.value.name, str(gone.value)) == ("node-2", "its process ended")
        nodes.close()
    eventually(lambda: descriptors() == before)


@pytest.mark.parametrize("stopped", [True, False], ids=["the run is to end", "for too long"])
def test_a_node_that_is_not_there_or_does_nothing_is_named(monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    if not stopped:
        monkeypatch.setattr(called_nodes, "MAKE_SECONDS", 0.05)
    nodes, goes = engine(stops_at=monotonic() - BEYOND_STOP if stopped else None), threading.Event()

    def waits(values: list[Any], taken: list[int]) -> Answer:
        goes.wait(PATIENCE)
        return part(values, taken)

    with between({"cut": waits}) as (caller, _), between({"cut": part}, "node-2") as (other, _):
        nodes.add(caller)
        nodes.add(other)
        nodes.carry(1, MODEL)
        with pytest.raises(NodeGone, match="it has not done its part in time"):
            nodes.finish(1, 1, ["node-1", "node-2"], 1)
        nodes.remove(other)
        with pytest.raises(NodeGone) as gone:
            nodes.finish(1, 1, ["node-1", "node-2"], 1)
        assert gone.value.name == "node-2"
        goes.set()
        nodes.close()


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), StoreError("no room"), NoRoom("no room"), OSError(errno.ENOSPC, "no room")]
)
def test_what_is_a_nodes_own_fault_names_it(error: Exception) -> None:
    nodes = engine()
    with between({"cut": raising(error)}) as (caller, _), between({"cut": part}, "node-2") as (more, _):
        nodes.add(caller)
        nodes.add(more)
        nodes.carry(1, MODEL)
        with pytest.raises(NodeGone, match="no room") as gone:
            nodes.finish(1, 1, ["node-1", "node-2"], 1)
        assert gone.value.name == "node-1"
        nodes.close()


@pytest.mark.parametrize("where", ["put", "memory_of"])
def test_a_node_that_has_no_memory_for_what_nodes_have_in_common_is_named(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it made finds no place, or what others have cut cannot be mapped."""
    nodes = engine()
    making = SimpleNamespace(made=lambda *_: MODEL, cut=lambda *_: MODEL)
    does = {"cut": part, "made": called_nodes.answers(SimpleNamespace(making=making))["made"]}  # type: ignore[arg-type]
    with between(does) as (caller, _), between({"cut": part}, "node-2") as (more, _):
        nodes.add(caller)
        nodes.add(more)
        nodes.carry(1, MODEL)
        monkeypatch.setattr(values, where, raising(OSError(errno.ENOMEM, "no room")))
        with pytest.raises(NodeGone, match="no room") as gone:
            nodes.finish(1, 1, ["node-1", "node-2"], 1)
        assert gone.value.name == "node-1"
        nodes.close()


def test_a_node_that_cannot_do_its_part_says_why() -> None:
    nodes = engine()
    with (
        between({"cut": raising(ValueError("a defect"))}) as (caller, _),
        between({"cut": part}, "node-2") as (more, _),
    ):
        nodes.add(caller)
        nodes.add(more)
        nodes.carry(1, MODEL)
        with pytest.raises(CallFailed, match="a defect"):
            nodes.finish(1, 1, ["node-1", "node-2"], 1)
        nodes.close()
