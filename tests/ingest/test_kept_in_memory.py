"""What a node and the desk have of models and sums, once they are needed no more."""

import weakref
from pathlib import Path

import pytest
import torch

from flserver.aggregation import FedAvg
from flserver.errors import StoreError
from flserver.ingest import told as t
from flserver.ingest.folding import Layout
from flserver.ingest.node import Node
from flserver.models.state import state_of
from flserver.process.resources import limits_of
from flserver.settings import server_settings
from flserver.wire.template import Template
from tests.ingest.at_desk import AtDesk
from tests.ingest.outcomes import moved
from tests.ingest.several import Several
from tests.patience import PATIENCE, eventually
from tests.rounds.coordinated import tensors


def test_a_node_has_the_model_of_an_attempt_and_the_one_before_and_no_older_one(tmp_path: Path) -> None:
    with Several(tmp_path, 1, rounds=4) as several:
        a, node = several.peer("a"), several.nodes[0].node
        models: list[weakref.ref[torch.Tensor]] = []
        for _ in range(3):
            model = a.model()
            assert several.desk._began is not None
            models.append(weakref.ref(node._models.there[several.desk._began.model][0].state["fc1.weight"]))
            with torch.no_grad():
                model.fc1.weight.add_(1.0)
            a.upload(model)
        a.model()
        eventually(lambda: node.making.is_of(4, 1))
        assert list(node._models.there) == [node._models.current[0]]  # type: ignore[index]
        assert [there() is None for there in models] == [True, True, False], "the last is that of the round before"


def test_a_node_keeps_no_numbers_of_the_model_that_it_made_for_its_layout(tmp_path: Path) -> None:
    with Several(tmp_path, 1) as several:
        late, module = several.add(prepared=False), several.initial()
        several.nodes.append(late)
        there = weakref.ref(module.fc1.weight)
        layout = state_of(module)
        template = Template.of({"header": "<MODEL>", "model": module})
        limits = limits_of(server_settings({}).network, template, layout, parameter_tensors=2)
        shared = weakref.ref(layout["fc1.weight"])
        late.node.prepared(layout, template, FedAvg(), limits, Layout({}, frozenset({"seen"})))
        del module, layout
        assert (there(), shared()) == (None, None)
        peer = several.peer("a", node=1)
        moved(peer, 0.5)
        assert several.finish() == "completed", "the layout is enough"


def test_the_desk_lets_go_of_the_model_that_a_run_goes_on_after() -> None:
    with AtDesk() as at:
        given = tensors(0.0, 0, 0)
        there = [weakref.ref(tensor) for tensor in given.values()]
        at.desk.goes_on_after = given
        del given
        for number in (1, 2):
            assert all(one() is not None for one in there), "a node that comes now is told of it"
            at.desk.render(tensors(float(number), 0, 0))
        assert [one() for one in there] == [None] * len(there)


def test_models_that_came_and_were_never_told_of_are_let_go(tmp_path: Path) -> None:
    with Several(tmp_path, 1) as several:
        node: Node = several.nodes[0].node
        for number in (1, 2, 3, 4):
            node.model(number, [memoryview(bytes([number]))])
        assert bytes(node._models._awaited(3)[0]) == b"\x03"
        assert list(node._models.waiting) == [4]


def test_a_model_that_does_not_come_is_waited_for_until_the_line_ends(tmp_path: Path) -> None:
    with Several(tmp_path, 1) as several:
        node: Node = several.nodes[0].node
        node.lost()
        with pytest.raises(StoreError, match="the coordinator is gone"):
            node._models._awaited(1)


def test_nothing_is_left_at_the_desk_of_what_a_node_that_is_gone_was_to_be_told() -> None:
    with AtDesk() as at:
        blob = memoryview(b"a model")
        there = weakref.ref(blob)
        at.place.outbox.put(t.Model(1, (blob,)))
        del blob
        at.place.gone("its process ended")
        at.place._in_order._thread.join(PATIENCE)
        assert there() is None
        assert at.place.outbox.over
