"""The bytes of a checkpoint: every tensor in them, and the same bytes for the same state."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, load_file

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
