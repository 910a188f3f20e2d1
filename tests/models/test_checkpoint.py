"""Checkpoints: what is in the file, when it is durable, and what does not pass for one."""

import errno
import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, load_file
from torch import Tensor

from flserver.errors import CheckpointError, UsageError
from flserver.models.checkpoint import CheckpointStore, free_space
from flserver.models.checkpoint_format import estimate, read, serialize
from flserver.models.state import TORCH_DTYPES, State


def state() -> State:
    return {"fc1.weight": torch.arange(12.0).reshape(3, 4), "fc1.bias": torch.tensor([1.0, -2.0, 0.5])}


def content(model: State, strategy: State | None = None) -> bytes:
    return b"".join(serialize(model, strategy or {}))


def same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].contiguous().view(-1).view(torch.uint8).tolist() == raw(tensor)


def raw(tensor: Tensor) -> list[int]:
    return list(tensor.contiguous().view(-1).view(torch.uint8).tolist())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", "run-1")
    store.prepare()
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "run-1"


def test_the_order_of_a_dict_does_not_change_a_byte() -> None:
    whole = content(every_kind(), state())
    assert content(dict(reversed(every_kind().items())), dict(reversed(state().items()))) == whole


# --- the file --------------------------------------------------------------------------------------------------------


def every_kind() -> State:
    made: State = {f"a.{name}": torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype) for name, dtype in TORCH_DTYPES.items()}
    made["scalar"] = torch.tensor(2.5)
    made["counter"] = torch.tensor(7)
    made["empty"] = torch.empty(0, 5)
    made["special"] = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324], dtype=torch.float64)
    made["transposed"] = torch.arange(6.0).reshape(2, 3).t()
    made["sliced"] = torch.arange(20.0)[3:17:2]
    return made


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


def test_the_digest_is_the_files_own(store: CheckpointStore, folder: Path) -> None:
    written = store.write(12, state(), {})
    data = (store.directory / written.path).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert (written.digest, written.size) == ("sha256:" + digest, len(data))
    assert written.path == f"run-1/round-000012-{digest[:16]}.safetensors"
    assert store.files() == {folder / f"round-000012-{digest[:16]}.safetensors": 12}
    assert [path.name for path in folder.iterdir()] == [Path(written.path).name], "nothing temporary is left"


# --- durable ---------------------------------------------------------------------------------------------------------

Step = tuple[str, str]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What is asked of the disk, in order: (call, name of the file or folder)."""
    seen: list[Step] = []
    fsync, rename, write = os.fsync, os.rename, os.write

    def name(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    def noted_fsync(descriptor: int) -> None:
        seen.append(("fsync", name(descriptor)))
        fsync(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        seen.append(("rename", Path(target).name))
        rename(source, target)

    def noted_write(descriptor: int, piece: bytes) -> int:
        if seen[-1:] != [("write", name(descriptor))]:
            seen.append(("write", name(descriptor)))
        return write(descriptor, piece)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    monkeypatch.setattr(os, "write", noted_write)
    return seen


def test_the_file_is_durable_before_its_name_is_and_the_name_before_it_returns(
    store: CheckpointStore, steps: list[Step]
) -> None:
    written = store.write(4, state(), {})
    partial = ".round-000004.partial"
    assert steps == [
        ("write", partial),
        ("fsync", partial),
        ("rename", Path(written.path).name),
        ("fsync", "run-1"),
    ]


def test_a_new_folder_is_durable_in_its_parents(tmp_path: Path, steps: list[Step]) -> None:
    store = CheckpointStore(tmp_path / "new" / "checkpoints", "run-1")
    store.prepare()
    assert sorted(name for _, name in steps) == sorted([tmp_path.name, "new", "checkpoints"])
    steps.clear()
    store.prepare()
    assert steps == []


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_short_writes_are_gone_on_with(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    write, sizes = os.write, itertools.cycle(range(1, most + 1))
    monkeypatch.setattr(os, "write", lambda file, piece: write(file, memoryview(piece)[: next(sizes)]))
    written = store.write(1, every_kind(), {})
    same(load_file(store.directory / written.path), every_kind())


@pytest.mark.parametrize("failing", ["fsync of the file", "fsync of the folder", "write", "rename"])
def test_what_the_disk_refuses_is_raised_and_not_tried_again(
    store: CheckpointStore, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    calls: list[str] = []

    def noted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            is_folder = name == "fsync" and Path(os.readlink(f"/proc/self/fd/{arguments[0]}")).is_dir()
            kind = f"fsync of the {'folder' if is_folder else 'file'}" if name == "fsync" else name
            calls.append(kind)
            if kind == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments)

        return call

    for name in ("fsync", "write", "rename"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    with pytest.raises(CheckpointError, match="checkpoint of round 2: Input/output error"):
        store.write(2, state(), {})
    assert calls.count(failing) == 1
    if failing != "fsync of the folder":
        assert store.files() == {}, "no round's name stands for a file that may not be whole"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UsageError, match="--checkpoint-dir: cannot make"):
        CheckpointStore(tmp_path / "checkpoints", "run-1").prepare()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    with pytest.raises(UsageError, match="cannot be written"):
        CheckpointStore(tmp_path, "run-1").prepare()


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 20, -1])
def test_one_changed_bit_is_noticed(store: CheckpointStore, place: int) -> None:
    written = store.write(1, state(), {})
    path = store.directory / written.path
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="does not match its digest"):
        store.read(written.path, written.digest)


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 64, content({"a": torch.ones(4)})[:-1], b"\x80\x04N."])
def test_what_is_no_checkpoint_is_an_error_of_ours(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "round-000001-0123456789abcdef.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read(path, None)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read(tmp_path / "gone.safetensors", None)


# --- what a crash leaves ---------------------------------------------------------------------------------------------


def left_by_a_crash(folder: Path, *rounds: int) -> None:
    for round in rounds:
        (folder / f"round-{round:06d}-0123456789abcdef.safetensors").write_bytes(b"a round")
    (folder / f".round-{max(rounds):06d}.partial").write_bytes(b"half")
    (folder / "notes.txt").write_text("somebody else's")


def test_what_a_crash_left_of_the_next_round_is_removed_and_nothing_else(store: CheckpointStore, folder: Path) -> None:
    left_by_a_crash(folder, 0, 1, 2, 3)
    store.clean(2)
    assert sorted(store.files().values()) == [0, 1, 2]
    assert sorted(path.name for path in folder.iterdir() if path not in store.files()) == ["notes.txt"]


def test_before_round_0_its_left_over_is_removed(store: CheckpointStore, folder: Path) -> None:
    left_by_a_crash(folder, 0)
    store.clean(-1)
    assert store.files() == {}


def test_a_file_two_rounds_ahead_means_lost_commits_and_nothing_is_touched(
    store: CheckpointStore, folder: Path
) -> None:
    left_by_a_crash(folder, 1, 2, 3)
    before = sorted(folder.iterdir())
    with pytest.raises(CheckpointError, match=r"round-000003.*the database has lost commits") as caught:
        store.clean(1)
    assert "last committed round is 1" in str(caught.value)
    assert sorted(folder.iterdir()) == before


def test_pruning_twice_is_fine(store: CheckpointStore) -> None:
    written = store.write(1, state(), {})
    store.delete(written.path)
    store.delete(written.path)
    assert store.files() == {}


# --- room on the disk ------------------------------------------------------------------------------------------------


def test_the_estimate_covers_what_is_written(store: CheckpointStore) -> None:
    sizes = sum(store.write(round, state(), {}).size for round in range(6))
    assert sizes <= estimate(state(), rounds=5, keep=0)
    big = {"w": torch.zeros(1000, 1000)}
    assert estimate(big, 100, keep=0) == pytest.approx(101 * 4e6, rel=0.02)
    assert estimate(big, 100, keep=3) == pytest.approx(5 * 4e6, rel=0.02), "the newest 3, the best and the next"
    assert estimate(big, 1, keep=3) == estimate(big, 1, keep=0)


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_space(tmp_path / "a" / "b") == pytest.approx(free_space(tmp_path), rel=0.1)
