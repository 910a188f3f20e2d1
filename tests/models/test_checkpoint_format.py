"""The bytes of a checkpoint: every tensor in them, and the same bytes for the same state."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file

from flserver.errors import CheckpointError
from flserver.models.checkpoint import CheckpointStore
from flserver.models.checkpoint_format import estimate, read, serialize
from flserver.models.state import State
from tests.models.states import every_kind, same, state


def content(model: State, strategy: State | None = None) -> bytes:
    return b"".join(serialize(model, strategy or {}))


def test_the_order_of_a_dict_does_not_change_a_byte() -> None:
    whole = content(every_kind(), state())
    assert content(dict(reversed(every_kind().items())), dict(reversed(state().items()))) == whole


def test_the_formats_own_library_reads_every_kind_of_tensor(store: CheckpointStore) -> None:
    written = store.write(3, every_kind(), {})
    same(load_file(store.directory / written.path), every_kind())
    with safe_open(store.directory / written.path, "pt") as file:
        assert file.metadata()["format"] == "pt", "what other programs look for"
    same(store.read(written.path, written.digest)[0], every_kind())


@pytest.mark.parametrize("name", ['a"b', "a\\b", "tab\t.line\n", "Grüße.😀", "\x00\x7f", " ", "__strategy.x"])
def test_names_that_json_must_escape(name: str) -> None:
    same(load(content({name: torch.ones(3), "b": torch.zeros(1)})), {name: torch.ones(3), "b": torch.zeros(1)})


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_any_sizes_in_any_order(sizes: list[int]) -> None:
    model = {f"t{i}": torch.arange(size, dtype=torch.float32) + i for i, size in enumerate(sizes)}
    same(load(content(model)), model)
    assert int.from_bytes(content(model)[:8], "little") % 8 == 0, "the tensors begin aligned"


def test_equal_states_give_equal_bytes_in_any_run_at_any_round(tmp_path: Path) -> None:
    digests = set()
    for run, round in (("a", 1), ("b", 20)):
        store = CheckpointStore(tmp_path, run)
        store.prepare()
        digests.add(store.write(round, state(), {"momentum": torch.ones(2)}).digest)
    assert len(digests) == 1
    changed = state()
    changed["fc1.bias"][0] += 1e-6
    assert content(changed, {"momentum": torch.ones(2)}) != content(state(), {"momentum": torch.ones(2)})


def test_a_strategys_tensors_come_back_apart_from_the_models(store: CheckpointStore) -> None:
    own = {"momentum.fc1.weight": torch.full((3, 4), 0.25), "step": torch.tensor(9)}
    written = store.write(1, state(), own)
    model, strategy = store.read(written.path, written.digest)
    same(model, state())
    same(strategy, own)


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 64, content({"a": torch.ones(4)})[:-1], b"\x80\x04N."])
def test_what_is_no_checkpoint_is_an_error_of_ours(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "round-000001-0123456789abcdef.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read(path, None)


def file_of(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: object = (2,), offsets: object = (0, 8), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        file_of([]),
        file_of({"a": 3}),
        file_of({"a": {}}),
        file_of({"a": entry(dtype="C64")}, bytes(8)),
        file_of({"a": entry(shape=[2.0])}, bytes(8)),
        file_of({"a": entry(shape=[True, 2])}, bytes(8)),
        file_of({"a": entry(shape=[-1, -2])}, bytes(8)),
        file_of({"a": entry(shape=[2**62, 2**62])}, bytes(8)),
        file_of({"a": entry(offsets=[0])}, bytes(8)),
        file_of({"a": entry(offsets=[0, 4])}, bytes(8)),
        file_of({"a": entry(offsets=[8, 16])}, bytes(16)),
        file_of({"a": entry(offsets=[0, 8])}, bytes(9)),
        file_of({"a": entry(), "b": entry()}, bytes(8)),
        file_of({"a": entry(), "b": entry(offsets=[9, 17])}, bytes(17)),
        (2**63).to_bytes(8, "little") + b"{}",
        (5).to_bytes(8, "little") + b"\xff" * 5,
        file_of("[" * 100_000),
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_a_file_that_lies_is_an_error_of_ours_as_it_is_one_of_the_library(tmp_path: Path, data: bytes) -> None:
    with pytest.raises((SafetensorError, KeyError)):
        load(data)
    path = tmp_path / "round-000001-0123456789abcdef.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read(path, None)


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in every_kind().items()}, path, metadata={"a": "b"})
    same(read(path, None)[0], every_kind())


def test_what_is_read_may_be_changed_and_a_strategys_outlives_the_model(store: CheckpointStore) -> None:
    written = store.write(1, state(), {"own": torch.ones(3)})
    model, own = store.read(written.path, written.digest)
    model["fc1.bias"].add_(1)
    assert own["own"].untyped_storage().nbytes() == own["own"].nbytes
    same(store.read(written.path, written.digest)[0], state())


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read(tmp_path / "gone.safetensors", None)


def test_the_estimate_covers_what_is_written(store: CheckpointStore) -> None:
    sizes = sum(store.write(round, state(), {}).size for round in range(6))
    assert sizes <= estimate(state(), rounds=5, keep=0)
    big = {"w": torch.zeros(1000, 1000)}
    assert estimate(big, 100, keep=0) == pytest.approx(101 * 4e6, rel=0.02)
    assert estimate(big, 100, keep=3) == pytest.approx(5 * 4e6, rel=0.02), "the newest 3, the best and the next"
    assert estimate(big, 1, keep=3) == estimate(big, 1, keep=0)
