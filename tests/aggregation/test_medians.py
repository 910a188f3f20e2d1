"""Medians against a naive count of every value, and what is kept for them."""

import statistics
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation import State, medians
from flserver.aggregation.medians import Medians
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.errors import NoRoom, TooDifferent
from tests.examples import times

KINDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def median_of(base: State, updates: Sequence[State]) -> State:
    return counted(base, updates).finish()


def counted(base: State, updates: Sequence[State]) -> Medians:
    taken = Medians(base)
    for update in updates:
        taken.add(taken.difference(update))
    return taken


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


def split(updates: list[State], data: st.DataObject) -> tuple[list[State], list[State]]:
    where = data.draw(st.integers(0, len(updates)))
    return updates[:where], updates[where:]


@pytest.mark.parametrize("few", [medians.FEW, 3, 0])
@times(0.7)
@given(case=rounds(), data=st.data())
def test_it_is_the_lower_median_of_all_clients_in_any_order(
    few: int, case: tuple[State, list[State]], data: st.DataObject
) -> None:
    """However much of an update is kept as rows, in two parts, and one more that is taken back: the multiset is one."""
    base, updates = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medians, "FEW", few)
        patch.setattr(medians, "WORK", data.draw(st.sampled_from([1, 5, 1 << 20])))
        patch.setattr(medians, "CHUNK", data.draw(st.sampled_from([1, 2, 1 << 18])))
        gone = data.draw(st.sampled_from(updates))
        mine, other = (counted(base, part) for part in split(data.draw(st.permutations([*updates, gone])), data))
        mine.merge(other)
        if data.draw(st.booleans()):
            mine.add(mine.difference(gone), -1)
        else:
            mine.merge(counted(base, [gone]), -1)
        assert torch.equal(mine.rows(), counted(base, updates).rows())
        assert mine.clients == len(updates)
        got = mine.finish()
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


def test_what_is_kept_of_many_clients_stays_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters that each client has its own number in, until there is no room for rows: then whole tensors are kept."""
    monkeypatch.setattr(medians, "KEPT", 5_000)
    base = {"count": torch.zeros(100, dtype=torch.int64), "index": torch.arange(2 * medians.FEW)}
    taken, kept = Medians(base), 0
    for client in range(1, 70):
        difference = taken.difference({"count": torch.full((100,), client), "index": base["index"]})
        taken.add(difference)
        kept += len(difference.many)
    assert taken._merged().shape[1] <= medians.KEPT
    assert kept == 19
    assert taken.finish()["count"].tolist() == [35] * 100


def test_clients_that_have_the_same_count_take_the_room_of_one() -> None:
    base = {"count": torch.zeros(20, dtype=torch.int64)}
    assert counted(base, [{"count": torch.full((20,), 7)}] * 50).rows().shape[1] == 20


def test_an_update_for_which_there_is_no_room_is_refused_before_anything_of_it_counts() -> None:
    base, wrong = {"index": torch.arange(9999), "w": torch.zeros(2)}, torch.arange(9999).flip(0)
    fedavg = FedAvg()

    def scratch(size: int) -> memoryview:
        if size == wrong.nbytes:
            raise NoRoom("no")
        return memoryview(bytearray(size))

    fedavg.scratch = scratch
    fedavg.begin(base)
    for update in ({"index": base["index"], "w": torch.ones(2)}, {"index": wrong, "w": torch.full((2,), 9.0)}):
        if update["index"] is wrong:
            with pytest.raises(TooDifferent, match="index differs"):
                fedavg.reserve(update, 5)
            with pytest.raises(TooDifferent, match="index differs"):
                fedavg.add(update, 5)
        else:
            fedavg.reserve(update, 5)
            fedavg.add(update, 5)
    assert fedavg.finish()["w"].tolist() == [1.0, 1.0]


def test_what_is_kept_of_a_large_tensor_is_not_the_updates_memory() -> None:
    base, wrong = {"index": torch.arange(9999)}, {"index": torch.arange(9999).flip(0)}
    fedavg = FedAvg()
    fedavg.begin(base)
    fedavg.add(base, 1)
    for _ in range(2):
        fedavg.add(wrong, 1)
    assert not fedavg.holds
    wrong["index"].zero_()  # its memory is another update's now
    assert torch.equal(fedavg.finish()["index"], torch.arange(9999).flip(0))


def test_tensors_that_lie_across_are_read_as_they_are_shaped() -> None:
    base = {"n": torch.zeros(90, 80, dtype=torch.int32)}
    update = {"n": torch.arange(7200, dtype=torch.int32).view(80, 90).t()}
    assert not update["n"].is_contiguous()
    assert torch.equal(median_of(base, [update, update, base])["n"], update["n"])
