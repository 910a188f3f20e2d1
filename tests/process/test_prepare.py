"""What a run begins with: the first weights."""

import gc
import importlib
import sys
import weakref
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from flserver.aggregation import FedAvg, State
from flserver.errors import CheckpointError, UsageError
from flserver.models.checkpoint import CheckpointStore
from flserver.process.basis import Weights, initial_weights, look_up, of_parent
from flserver.process.prepare import Prepared, load_weights, prepare
from flserver.process.which_run import Parent, Plan
from flserver.settings import StorePolicy, server_settings
from flserver.store.reader import Reader
from tests.process.runs import FakeReader, found

FACTORY = """
import weakref
from torch import nn

made = []

def factory():
    module = nn.Linear(30, 20)
    made.append((weakref.ref(module), module.weight.data_ptr()))
    return module
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a factory of the operator's made: the modules, as long as somebody has them, and where their weights lie."""
    (tmp_path / "linear.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "linear", None)  # forgotten after the test
    del sys.modules["linear"]
    return cast(list[Any], importlib.import_module("linear").made)


def start(tmp_path: Path, **given: str | int) -> Prepared:
    settings = server_settings({"model": "linear:factory", "db": str(tmp_path / "runs.sqlite")} | given)
    plan = Plan(run_id="r2", name="night", ref="night", settings=settings)
    return prepare(plan, look_up(plan, cast(Reader, FakeReader())), lambda line: None)


def test_a_start_lets_the_module_go_and_its_state_is_the_modules_memory(tmp_path: Path, made: list[Any]) -> None:
    prepared = start(tmp_path)
    ((module, weights),) = made
    gc.collect()
    assert module() is None
    assert prepared.model.state["weight"].data_ptr() == weights
    assert (prepared.parameters, prepared.parameter_tensors) == (620, 2)


def test_a_start_with_other_weights_keeps_no_others(tmp_path: Path, made: list[Any]) -> None:
    given = {"weight": torch.ones(20, 30), "bias": torch.zeros(20)}
    save_file(given, tmp_path / "first.safetensors")
    prepared = start(tmp_path, initial_weights=str(tmp_path / "first.safetensors"))
    assert list(prepared.model.state) == ["weight", "bias"]
    assert torch.equal(prepared.model.state["weight"], given["weight"])
    save_file({"weight": torch.ones(20, 3), "bias": torch.zeros(20)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="weight has shape"):
        start(tmp_path, initial_weights=str(tmp_path / "other.safetensors"))


def test_who_is_handed_the_model_is_the_only_one_to_have_it(tmp_path: Path, made: list[Any]) -> None:
    prepared = start(tmp_path)
    model = prepared.hand_over()
    tensor = weakref.ref(model.state["weight"])
    assert (prepared.model.round, prepared.model.digest, prepared.model.state) == (model.round, model.digest, {})
    del model
    assert tensor() is None, "nothing else keeps its memory"


def test_weights_from_a_file(tmp_path: Path) -> None:
    save_file({"w": torch.arange(3.0)}, tmp_path / "first.safetensors")
    reader, store = cast(Reader, FakeReader()), store_in(tmp_path)
    weights = initial_weights(str(tmp_path / "first.safetensors"), reader, store)
    assert loaded(weights)["w"].tolist() == [0, 1, 2]
    assert (weights.run_id, weights.round) == (None, None)
    with pytest.raises(UsageError, match="cannot read weights"):
        loaded(initial_weights(str(tmp_path / "gone.safetensors"), reader, store))


def loaded(weights: Weights) -> State:
    return load_weights(weights, "fedavg", FedAvg())


def store_in(checkpoint_dir: Path) -> StorePolicy:
    return server_settings({"checkpoint_dir": str(checkpoint_dir)}).store


@pytest.fixture
def parent(tmp_path: Path) -> Reader:
    """A run with rounds 0 and 1 on disk, and round 2 pruned."""
    store = CheckpointStore(tmp_path, "r1")
    store.prepare()
    rounds: dict[int, dict[str, Any]] = {}
    for round in range(3):
        written = store.write(round, {"w": torch.full((2,), float(round))}, {"momentum": torch.ones(1)})
        rounds[round] = {"checkpoint": written.path, "model_digest": written.digest}
    rounds[1]["checkpoint_deleted_at"] = "2026-01-31T09:00:00.000000Z"
    store.delete(rounds[1]["checkpoint"])
    return cast(Reader, FakeReader(found("completed", checkpoint_dir=str(tmp_path)), rounds=rounds))


@pytest.mark.parametrize(("spec", "round"), [("r1", 2), ("night", 2), ("night:0", 0), ("r1:2", 2)])
def test_weights_from_a_round_of_a_run(parent: Reader, tmp_path: Path, spec: str, round: int) -> None:
    weights = initial_weights(spec, parent, store_in(tmp_path))
    assert {name: tensor.tolist() for name, tensor in loaded(weights).items()} == {"w": [round, round]}
    assert (weights.run_id, weights.round) == ("r1", round)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("night:1", "was pruned"),
        ("night:9", "no round 9"),
        ("night:last", "'last' is not a round"),
        ("night:-1", "'-1' is not a round"),
        ("day", "no run day"),
    ],
)
def test_weights_that_are_not_there(parent: Reader, tmp_path: Path, spec: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        initial_weights(spec, parent, store_in(tmp_path))


def test_weights_of_a_run_whose_checkpoints_lie_elsewhere(parent: Reader, tmp_path: Path) -> None:
    assert initial_weights("night", parent, store_in(tmp_path / "of the new run")).round == 2


def test_weights_whose_file_was_changed_are_not_used(parent: Reader, tmp_path: Path) -> None:
    (file,) = (tmp_path / "r1").glob("round-000002-*")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="does not match its digest"):
        loaded(initial_weights("night", parent, store_in(tmp_path)))


def resumed(tmp_path: Path, rounds: dict[int, dict[str, Any]]) -> Prepared:
    settings = server_settings({"model": "linear:factory", "checkpoint_dir": str(tmp_path)})
    reader = cast(Reader, FakeReader(found("interrupted"), rounds=rounds))
    plan = Plan(run_id="r1", name="night", ref="night", settings=settings, resumed=reader.run("r1"))
    return prepare(plan, look_up(plan, reader), lambda line: None)


def test_a_resumed_run_finds_its_last_step_again_where_both_checkpoints_are_sound(
    tmp_path: Path, made: list[Any]
) -> None:
    store, rounds = CheckpointStore(tmp_path, "r1"), {}
    store.prepare()
    for round in range(2):
        model = {"weight": torch.full((20, 30), 1.0 + round), "bias": torch.zeros(20)}
        written = store.write(round, model, {})
        rounds[round] = {
            "checkpoint": written.path, "model_digest": written.digest, "attempt": 1, "loss": None, "accuracy": None,
        }  # fmt: skip
    prepared = resumed(tmp_path, rounds)
    step = prepared.model.step
    assert step is not None
    assert (step.norm, float(step.before["weight"].mean())) == (pytest.approx(600**0.5), 1.0)
    prepared.hand_over()
    assert prepared.model.step is None, "its memory is handed over too"
    assert resumed(tmp_path, {0: rounds[0]}).model.step is None, "round 0 came of no other"
    pruned = {**rounds[0], "checkpoint_deleted_at": "2026-01-31T09:00:00.000000Z"}
    assert resumed(tmp_path, {0: pruned, 1: rounds[1]}).model.step is None
    (file,) = (tmp_path / "r1").glob("round-000000-*")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert resumed(tmp_path, rounds).model.step is None, "another model would be another direction"


class Remembering(FedAvg):
    """A strategy with a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.own: State = {}

    def load_state(self, state: State) -> None:
        self.own = state


@pytest.mark.parametrize(("strategy", "own"), [("fedavg", {"momentum": [1.0]}), ("lab.fl:Median", {})])
def test_a_child_has_the_parents_tensors_and_its_strategys_where_that_is_the_same(
    parent: Reader, tmp_path: Path, strategy: str, own: dict[str, list[float]]
) -> None:
    begun, remembering = Parent(run=parent.run("r1"), round=2), Remembering()
    settings = server_settings({"strategy": strategy, "checkpoint_dir": str(tmp_path)})
    weights = of_parent(begun, parent, settings)
    state = load_weights(weights, strategy, remembering)
    assert {name: tensor.tolist() for name, tensor in state.items()} == {"w": [2, 2]}
    assert (weights.run_id, weights.round) == ("r1", 2)
    assert {name: tensor.tolist() for name, tensor in remembering.own.items()} == own


def test_a_child_does_not_begin_with_a_checkpoint_that_is_pruned_changed_or_gone(
    parent: Reader, tmp_path: Path
) -> None:
    def begin(round: int) -> None:
        settings = server_settings({"checkpoint_dir": str(tmp_path)})
        load_weights(of_parent(Parent(run=parent.run("r1"), round=round), parent, settings), "fedavg", Remembering())

    with pytest.raises(UsageError, match="--resume-from 1: its checkpoint in run night was pruned"):
        begin(1)
    (file,) = (tmp_path / "r1").glob("round-000002-*")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UsageError, match=r"--resume-from 2: .* does not match its digest"):
        begin(2)
    file.unlink()
    with pytest.raises(UsageError, match=r"--resume-from 2: .*round-000002"):
        begin(2)


@pytest.mark.parametrize("nodes", [0, 2])
def test_nodes_may_have_any_strategy(tmp_path: Path, made: list[Any], nodes: int) -> None:
    start(tmp_path, ingest=nodes)
    start(tmp_path, ingest=nodes, strategy="tests.sums:InTurn")
