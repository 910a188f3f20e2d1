"""Two ends that take each other's bytes for a model's tensors have the same tensors, in the same order."""

import pytest
import torch

from flserver.aggregation import State
from flserver.ingest import told as t
from flserver.ingest.batches import Item, layout_digest
from flserver.ingest.desk import OTHER_LAYOUT
from tests.ingest.at_desk import AtDesk, names
from tests.patience import eventually

STATE: State = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}


@pytest.mark.parametrize(
    ("state", "tied", "buffers"),
    [
        ({"b": torch.zeros(2, 3), "a": torch.zeros(2, 3)}, {}, ()),
        ({"a": torch.zeros(3, 2), "b": torch.zeros(2, 3)}, {}, ()),
        ({"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.zeros(2, 3)}, {}, ()),
        (STATE, {"b": "a"}, ()),
        (STATE, {}, ("b",)),
    ],
    ids=["order", "shape", "dtype", "shared", "buffer"],
)
def test_what_makes_another_layout(state: State, tied: dict[str, str], buffers: tuple[str, ...]) -> None:
    assert layout_digest(STATE, {}, ()) == layout_digest(
        {name: one + 1 for name, one in STATE.items()}, {}, frozenset()
    )
    assert layout_digest(STATE, {}, ()) != layout_digest(state, tied, buffers)


@pytest.mark.parametrize("late", [True, False], ids=["ready later", "ready before the server"])
def test_a_node_with_another_layout_than_the_servers_is_gone_and_has_no_model(late: bool) -> None:
    with AtDesk() as at:
        why: list[str] = []
        at.place.explain = lambda said: why.append(said) or said  # type: ignore[func-returns-value]
        if late:
            at.desk.expect("this")
            at.say(Item(t.Ready("that")))
        else:
            at.say(Item(t.Ready("that")))
            at.desk.expect("this")
        at.desk.render(STATE)
        eventually(lambda: names(at.desk) == [])
        assert (at.place.ready, at.place.has_model, why) == (False, False, [OTHER_LAYOUT])


@pytest.mark.parametrize("late", [True, False], ids=["ready later", "ready before the server"])
def test_one_with_the_servers_stays(late: bool) -> None:
    with AtDesk() as at:
        if late:
            at.desk.expect("this")
        at.say(Item(t.Ready("this")))
        at.desk.expect("this")
        at.desk.render(STATE)
        assert (at.place.ready, at.place.has_model) == (True, True)
