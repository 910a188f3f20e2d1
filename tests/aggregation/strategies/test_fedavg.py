"""FedAvg: the exact mean, whoever came first, on however many threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation import FedAvg, State, Strategy
from flserver.aggregation.bins import BLOCK
from tests.aggregation.exact import Member, mean, members, same_bits, zeros
from tests.examples import times


def average(global_state: State, updates: list[Member]) -> State:
    fedavg = FedAvg()
    fedavg.begin(global_state)
    for update, n in updates:
        fedavg.add(update, n)
    return fedavg.finish()


@times(1)
@given(members(), st.randoms(use_true_random=False))
def test_it_is_the_exact_mean_rounded_once_in_any_order_and_after_other_rounds(
    updates: list[Member], chance: object
) -> None:
    model = zeros(updates[0][0])
    used = FedAvg()
    used.begin(model)
    used.add({name: torch.ones_like(tensor) for name, tensor in model.items()}, 7)
    used.begin(model)  # that attempt was not finished
    chance.shuffle(updates)  # type: ignore[attr-defined]
    for update, n in updates:
        used.reserve(update, n)
        used.add(update, n)
    got = used.finish()
    assert list(got) == list(model)
    assert all(same_bits(tensor, mean(updates, name)) for name, tensor in got.items() if tensor.is_floating_point())
    again = average(model, list(reversed(updates)))
    assert all(same_bits(tensor, again[name]) for name, tensor in got.items())


def test_many_threads_at_once_give_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins at another part, and two of them never work on the same one."""
    monkeypatch.setattr("flserver.aggregation.parts.PART", 2 * BLOCK)
    generator = torch.Generator().manual_seed(3)
    shape = {"w": torch.zeros(11 * BLOCK), "b": torch.zeros(7), "n": torch.tensor(0)}
    rows = [
        {"w": torch.randn(11 * BLOCK, generator=generator), "b": torch.full((7,), 1.0 / k), "n": torch.tensor(k % 5)}
        for k in range(1, 25)
    ]
    expected = average(shape, [(row, 10**k) for k, row in enumerate(rows[:8])] + [(row, 3) for row in rows[8:]])
    fedavg, together, begun = FedAvg(), threading.Barrier(4), []
    fedavg.begin(shape)
    add_to, busy = fedavg._sum.add_to, [threading.Lock() for _ in fedavg._sum.parts]

    def watched(part: object, tensors: object, n: int) -> None:
        which = fedavg._sum.parts.index(part)  # type: ignore[arg-type]
        begun.append((threading.get_ident(), which))
        assert busy[which].acquire(blocking=False), "two threads in one part"
        add_to(part, tensors, n)  # type: ignore[arg-type]
        busy[which].release()

    monkeypatch.setattr(fedavg._sum, "add_to", watched)

    def fold(some: list[tuple[State, int]]) -> None:
        together.wait()
        for update, n in some:
            fedavg.add(update, n)

    weighted = [(row, 10**k if k < 8 else 3) for k, row in enumerate(rows)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fold, [weighted[k::4] for k in range(4)]))
    assert len(fedavg._sum.parts) == 6
    starts = [which for one in {t for t, _ in begun} for which in [w for t, w in begun if t == one][:: len(busy)]]
    assert sorted(starts) == sorted(list(range(6)) * 4)
    got = fedavg.finish()
    assert all(same_bits(tensor, expected[name]) for name, tensor in got.items())


def test_products_of_float32_and_large_weights_are_exact() -> None:
    w = torch.tensor([1 + 2**-23], dtype=torch.float32)
    assert torch.equal(average({"w": w}, [({"w": w}, 2**29 - 1), ({"w": w}, 1)])["w"], w)


def test_a_float64_product_is_not_rounded_before_it_is_added() -> None:
    updates = [({"w": torch.tensor([value], dtype=torch.float64)}, n) for value, n in ((0.1, 3), (0.3, 7))]
    got = average({"w": torch.zeros(1, dtype=torch.float64)}, updates)["w"]
    assert torch.equal(got, mean(updates, "w"))
    thirds = [({"w": torch.tensor([value], dtype=torch.float64)}, n) for value, n in ((1e16, 3), (1.0, 1), (-1e16, 3))]
    assert average({"w": torch.zeros(1, dtype=torch.float64)}, thirds)["w"].item() == 1 / 7


def test_integer_and_boolean_tensors_take_the_median_whatever_the_weights() -> None:
    state = {"count": torch.tensor(0), "mask": torch.tensor([False, False])}
    mean = average(state, [
        ({"count": torch.tensor(5), "mask": torch.tensor([True, False])}, 1),
        ({"count": torch.tensor(-3), "mask": torch.tensor([False, False])}, 9),
        ({"count": torch.tensor(4), "mask": torch.tensor([True, True])}, 1),
    ])  # fmt: skip
    assert mean["count"].item() == 4
    assert mean["mask"].tolist() == [True, False]


def test_the_result_is_not_the_strategys_own_memory() -> None:
    fedavg = FedAvg()
    state = {"w": torch.ones(3, dtype=torch.float64), "n": torch.tensor([1])}
    fedavg.begin(state)
    fedavg.add(state, 1)
    first = fedavg.finish()
    fedavg.begin(state)
    fedavg.add({"w": torch.full((3,), 9.0, dtype=torch.float64), "n": torch.tensor([9])}, 1)
    fedavg.finish()
    assert first["w"].tolist() == [1.0, 1.0, 1.0]
    assert first["n"].tolist() == [1]


def test_a_model_of_another_layout_begins_anew_and_one_in_another_order_keeps_its_own() -> None:
    fedavg = FedAvg()
    for state in (
        {"a": torch.ones(2), "b": torch.zeros(3)},
        {"b": torch.zeros(3), "a": torch.ones(2)},
        {"a": torch.ones(4)},
    ):
        fedavg.begin(state)
        fedavg.add(state, 2)
        got = fedavg.finish()
        assert list(got) == list(state)
        assert all(torch.equal(got[name], tensor) for name, tensor in state.items())


def test_an_update_that_is_reserved_for_and_does_not_count_leaves_nothing() -> None:
    fedavg, state = FedAvg(), {"n": torch.tensor([1, 2]), "w": torch.zeros(1)}
    fedavg.begin(state)
    changed = {"n": torch.tensor([8, 9]), "w": torch.ones(1)}
    fedavg.reserve(changed, 2)
    fedavg.unreserve(changed, 2)
    fedavg.add(state, 1)
    assert fedavg.finish()["n"].tolist() == [1, 2]


def test_only_who_says_so_is_called_in_any_order() -> None:
    assert (Strategy.order, FedAvg.order, FedAvg.needs) == ("ascending", "any", "stream")
