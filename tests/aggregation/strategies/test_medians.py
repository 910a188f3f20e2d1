"""Medians against a naive count of every value, and what is kept for them."""

import statistics
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation import State
from flserver.aggregation.strategies import medians
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.aggregation.strategies.medians import Medians
from tests.examples import times

KINDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def median_of(base: State, updates: Sequence[State], *, hold: bool = True) -> State:
    taken = Medians()
    taken.begin(base)
    for update in updates:
        taken.add(update, hold=hold)
    return taken.finish()


def naive(base: State, updates: Sequence[State]) -> dict[str, list[int]]:
    """By the definition, an element at a time."""

    def of(old: int, values: list[int], dtype: torch.dtype) -> int:
        if dtype == torch.bool:
            return old if 2 * sum(values) == len(values) else int(2 * sum(values) > len(values))
        return int(statistics.median_low(values))

    columns = {name: zip(*(u[name].reshape(-1).tolist() for u in updates), strict=True) for name in base}
    return {
        name: [
            of(old, [*map(int, values)], tensor.dtype)
            for old, values in zip(tensor.view(-1).tolist(), columns[name], strict=True)
        ]
        for name, tensor in base.items()
    }


@st.composite
def rounds(draw: st.DrawFn) -> tuple[State, list[State]]:
    """A model of a few small tensors, and updates that leave most of them as they were."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    shapes = [draw(st.sampled_from([(), (1,), (7,), (3, 2), (0,)])) for _ in kinds]

    def tensor(kind: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        if kind == torch.bool:
            values = st.booleans()
        else:
            info = torch.iinfo(kind)
            values = st.sampled_from([0, 1, 2, info.min, info.max]) | st.integers(info.min, info.max)
        count = torch.Size(shape).numel()
        return torch.tensor(draw(st.lists(values, min_size=count, max_size=count)), dtype=kind).view(shape)

    base = {str(i): tensor(kind, shape) for i, (kind, shape) in enumerate(zip(kinds, shapes, strict=True))}
    same = st.sampled_from([True, True, False])
    clients = range(draw(st.integers(1, 7)))
    return base, [{n: t if draw(same) else tensor(t.dtype, t.shape) for n, t in base.items()} for _ in clients]


@pytest.mark.parametrize("few", [medians.FEW, 3, 0])
@times(0.7)
@given(case=rounds(), data=st.data())
def test_it_is_the_lower_median_of_all_clients_in_any_order(
    few: int, case: tuple[State, list[State]], data: st.DataObject
) -> None:
    """However much of an update is kept by its places: all of it, some, or nothing."""
    base, updates = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medians, "FEW", few)
        patch.setattr(medians, "WORK", data.draw(st.sampled_from([1, 5, 1 << 20])))
        patch.setattr(medians, "CHUNK", data.draw(st.sampled_from([1, 2, 1 << 18])))
        got = median_of(base, data.draw(st.permutations(updates)), hold=data.draw(st.booleans()))
    assert {name: [*map(int, t.reshape(-1).tolist())] for name, t in got.items()} == naive(base, updates)
    assert all((got[n].dtype, got[n].shape) == (t.dtype, t.shape) for n, t in base.items())


@pytest.mark.parametrize(
    ("name", "sent", "honest", "wrong"),
    [
        ("counter", torch.tensor(4), torch.tensor(12), torch.tensor(2**63 - 1)),
        ("counter below", torch.tensor(4), torch.tensor(12), torch.tensor(-(2**63))),
        ("index", torch.arange(5), torch.arange(5), torch.full((5,), 2**62)),
        ("mask", torch.tensor([True, False]), torch.tensor([True, False]), torch.tensor([False, True])),
        ("bytes", torch.zeros(9, dtype=torch.uint8), torch.ones(9, dtype=torch.uint8), torch.full((9,), 255).byte()),
    ],
)
def test_one_of_three_clients_decides_nothing(
    name: str, sent: torch.Tensor, honest: torch.Tensor, wrong: torch.Tensor
) -> None:
    for order in ((honest, honest, wrong), (wrong, honest, honest)):
        fedavg = FedAvg()
        fedavg.begin({name: sent})
        for tensor, n in zip(order, (1, 1, 2**29 - 1), strict=True):
            fedavg.add({name: tensor}, n)
        assert torch.equal(fedavg.finish()[name], honest)


def test_one_client_alone_has_its_way_and_a_tie_of_booleans_changes_nothing() -> None:
    assert median_of({"n": torch.tensor(3)}, [{"n": torch.tensor(-9)}])["n"].item() == -9
    base = {"m": torch.tensor([True, False])}
    assert median_of(base, [{"m": torch.tensor([False, True])}])["m"].tolist() == [False, True]
    tie = [{"m": torch.tensor([False, True])}, {"m": torch.tensor([True, False])}]
    assert median_of(base, tie)["m"].tolist() == [True, False]


def test_what_is_kept_of_many_clients_stays_within_its_bound() -> None:
    """Counters of each, and then large tensors that all of them change: those are looked at where they lie."""
    base = {"count": torch.zeros(100, dtype=torch.int64), "index": torch.arange(2 * medians.FEW)}
    taken = Medians()
    taken.begin(base)
    for client in range(medians.KEPT // (100 + medians.OVERHEAD) + 50):
        changed = {"count": torch.full((100,), client), "index": base["index"]}
        held = taken.add(changed, hold=True)
        assert held == (taken._kept > medians.KEPT - 100 - medians.OVERHEAD and bool(taken._many["count"]))
    assert taken._kept <= medians.KEPT
    assert 0 < len(taken._many["count"]) <= 60
    assert taken.add({"count": base["count"], "index": base["index"] + 1}, hold=True)
    assert not taken.add({"count": base["count"], "index": base["index"]}, hold=True)
    assert taken._many["index"][0].data_ptr() != base["index"].data_ptr()


def test_a_large_tensor_is_held_only_for_who_said_that_it_will_be() -> None:
    base, wrong = {"index": torch.arange(9999)}, {"index": torch.arange(9999).flip(0)}
    held, copied = FedAvg(), FedAvg()
    held.may_hold = True
    for fedavg in (held, copied):
        fedavg.begin(base)
        fedavg.add(base, 1)
        assert not fedavg.holds
        fedavg.add(wrong, 1)
    assert (held.holds, copied.holds) == (True, False)
    copied.add({"index": wrong["index"].clone()}, 1)
    wrong["index"].zero_()  # its memory is another update's now
    assert torch.equal(copied.finish()["index"], torch.arange(9999).flip(0))


def test_tensors_that_lie_across_are_read_as_they_are_shaped() -> None:
    base = {"n": torch.zeros(90, 80, dtype=torch.int32)}
    update = {"n": torch.arange(7200, dtype=torch.int32).view(80, 90).t()}
    assert not update["n"].is_contiguous()
    assert torch.equal(median_of(base, [update, update, base])["n"], update["n"])
