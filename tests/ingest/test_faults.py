"""What fails at a node: a strategy's fault costs the run as on one machine, and at once; memory costs that node."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Never

import numpy as np
import pytest
import torch

from flserver import events as e
from flserver.aggregation import FedAvg
from flserver.errors import NoRoom
from flserver.ingest import told as t
from flserver.ingest.batches import Item
from flserver.ingest.faults import is_its_own, out_of_memory, said_of
from flserver.ingest.questions import Failure
from flserver.network.memory import ReceiveMemory
from flserver.store.payloads import to_payload
from tests import facts
from tests.ingest.at_desk import AtDesk, names
from tests.ingest.outcomes import decided, lost, moved
from tests.ingest.several import Several
from tests.patience import PATIENCE
from tests.recorder import raising

MORE_THAN_THERE_IS = 1 << 52


def no_memory_of_torch() -> None:
    torch.empty(MORE_THAN_THERE_IS, dtype=torch.uint8)


def no_memory_of_numpy() -> None:
    np.empty(MORE_THAN_THERE_IS, dtype=np.uint8)


def no_memory_of_python() -> None:
    bytearray(MORE_THAN_THERE_IS)


def no_place_for_a_sum() -> None:
    ReceiveMemory(0, 1, Path(tempfile.gettempdir())).scratch(MORE_THAN_THERE_IS)


def out(*_: object) -> Never:
    no_memory_of_torch()
    raise AssertionError("there was memory")


@pytest.mark.parametrize("fails", [no_memory_of_torch, no_memory_of_numpy, no_memory_of_python, no_place_for_a_sum])
def test_whatever_says_so_is_out_of_memory(fails: Callable[[], None]) -> None:
    with pytest.raises((MemoryError, RuntimeError, NoRoom)) as found:
        fails()
    assert out_of_memory(found.value)
    said = said_of(found.value)
    assert isinstance(said, t.GaveUp)
    assert said.why.startswith("it is out of memory: ")


@pytest.mark.parametrize(
    ("number", "own"),
    [
        *((number, True) for number in (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)),
        (errno.EPERM, False),
    ],
)
def test_of_what_the_system_refuses_only_what_it_has_no_more_of_is_the_nodes_own(number: int, own: bool) -> None:
    error = OSError(number, os.strerror(number))
    assert (isinstance(said_of(error), t.GaveUp), is_its_own(error)) == (own, own)


def test_what_would_fail_anywhere_costs_the_run() -> None:
    assert said_of(RuntimeError("shapes differ")) == t.Failed(Failure("FlserverError", "RuntimeError: shapes differ"))


def strategy_of(several: Several, node: int) -> FedAvg:
    strategy = several.nodes[node].node._folding.strategy
    assert isinstance(strategy, FedAvg)
    return strategy


@pytest.mark.parametrize("made", [False, True], ids=["a part", "the mean"])
def test_a_sum_that_cannot_be_given_for_a_fault_of_the_strategys_costs_the_run_at_once(
    tmp_path: Path, made: bool
) -> None:
    with Several(tmp_path, 2, clients=1 if made else 2) as several:
        name = "finish" if made else "partial"
        setattr(strategy_of(several, 1), name, raising(ValueError("a defect")))
        peers = [several.peer("b", node=1)] + ([] if made else [several.peer("a")])
        for peer in peers:
            moved(peer, 0.5)
        assert several.finish() == "failed"
        assert "ValueError: a defect" in str(several.coordinator.error)
        (aborted,) = several.recorder.of(e.AttemptAborted)
        assert aborted.reason == "failed"
        assert lost(several) == [], "nobody waited until the node was taken for gone"


@pytest.mark.parametrize("where", ["a part", "on arrival", "a model", "a sum"])
def test_a_node_that_is_out_of_memory_is_lost_and_the_round_goes_on(tmp_path: Path, where: str) -> None:
    with Several(tmp_path, 2, rounds=2, clients=2, min_updates=1) as several:
        a, b = several.peer("a"), several.peer("b", node=1)
        node, strategy = several.nodes[1].node, strategy_of(several, 1)
        what: dict[str, tuple[object, str, Callable[..., object]]] = {
            "a part": (strategy, "partial", out),
            "on arrival": (strategy, "add", out),
            "a model": (node._models, "take", out),
            "a sum": (strategy, "begin", raising(NoRoom("neither memory nor disk has room for the round's sum"))),
        }
        answers = [(peer, peer.model()) for peer in (b, a)]
        setattr(*what[where])  # so that the model is the next round's
        for peer, model in answers:
            peer.upload(model)
        mine = moved(a, 0.25)
        assert several.finish() == "completed"
        (gone,) = several.recorder.of(e.NodeLost)
        assert (gone.node, gone.reason.split(":")[0]) == ("node-2", "it is out of memory")
        first, last = (decided(committed) for committed in several.recorder.of(e.RoundCommitted)[1:])
        assert first == {"a": ("answered", True), "b": ("answered", where in ("a model", "a sum"))}
        assert last["a"] == ("answered", True)
        assert torch.equal(several.exchange.model.state["fc1.weight"], mine["fc1.weight"])


def test_a_node_that_has_no_memory_for_what_waited_there_is_lost(tmp_path: Path) -> None:
    with Several(tmp_path, 2, rounds=4, clients=3, min_updates=1, max_update_norm="auto") as several:
        a, b, c = several.peer("a"), several.peer("b", node=1), several.peer("c", node=1)
        for _ in range(3):
            for peer in (a, b, c):
                peer.answer(0.01)
        several.nodes[1].node._folding.fold = out  # type: ignore[method-assign]
        b.answer(1e9)
        c.answer(1e9)
        mine = moved(a, 0.01)
        assert several.finish() == "completed"
        assert [(name, {one[0] for one in updates}) for name, updates in lost(several)] == [("node-2", {"b", "c"})]
        assert torch.equal(several.exchange.model.state["fc1.weight"], mine["fc1.weight"])


def test_a_node_that_gives_up_is_gone_at_once_whatever_else_it_says() -> None:
    with AtDesk() as at:
        at.say(Item(t.GaveUp("it is out of memory: no room")), Item(t.Closed()))
        at.place._in_order._thread.join(PATIENCE)
        (gone,) = at.recorder.of(e.NodeLost)
        assert (gone.reason, names(at.desk)) == ("it is out of memory: no room", [])


def test_what_a_node_said_before_it_gave_up_is_on_record() -> None:
    with AtDesk() as at:
        opened = t.Emitted("ConnectionOpened", to_payload(facts.opened(3)), True)
        at.say(Item(opened), Item(t.GaveUp("it is out of memory: no room")), Item(opened))
        at.place._in_order._thread.join(PATIENCE)
        assert [type(event) for event in at.recorder.events] == [e.ConnectionOpened, e.NodeLost, e.ConnectionClosed]
