"""Checkpoints on the disk: when one is durable, what a crash leaves, and what does not pass for one."""

import errno
import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flserver.errors import CheckpointError, UsageError
from flserver.models.checkpoint import CheckpointStore, free_space
from tests.models.states import every_kind, same, state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "run-1"


def test_the_digest_is_the_files_own(store: CheckpointStore, folder: Path) -> None:
    written = store.write(12, state(), {})
    data = (store.directory / written.path).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert (written.digest, written.size) == ("sha256:" + digest, len(data))
    assert written.path == f"run-1/round-000012-{digest[:16]}.safetensors"
    assert store.files() == {folder / f"round-000012-{digest[:16]}.safetensors": 12}
    assert [path.name for path in folder.iterdir()] == [Path(written.path).name], "nothing temporary is left"


def test_the_millionth_rounds_is_found_like_any_other(store: CheckpointStore) -> None:
    written = [store.write(round, state(), {}) for round in (999_999, 1_000_000)]
    assert sorted(store.files().values()) == [999_999, 1_000_000]
    for one in written:
        same(store.read(one.path, one.digest)[0], state())


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


def test_the_disk_begins_before_the_file_is_whole_and_is_waited_for_all_the_same(
    store: CheckpointStore, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []

    def noted(descriptor: int, start: int, size: int, advice: int) -> None:
        assert ("fsync", ".round-000001.partial") not in steps
        assert os.fstat(descriptor).st_size == start + size, "what was written, and no more"
        begun.append((start, size))
        raise OSError(errno.EINVAL, "only a hint")

    monkeypatch.setattr("flserver.models.durable.BLOCK", 1000)
    monkeypatch.setattr(os, "posix_fadvise", noted)
    written = store.write(1, {"w": torch.arange(2000.0)}, {})
    assert begun[0][0] == 0
    assert all(start + size == following for (start, size), (following, _) in itertools.pairwise(begun))
    assert written.size - sum(begun[-1]) < 1000
    assert ("fsync", ".round-000001.partial") in steps
    assert store.read(written.path, written.digest)[0]["w"].equal(torch.arange(2000.0))


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
    with pytest.raises(CheckpointError, match=r"checkpoint of round 2 cannot be written: .*Input/output error"):
        store.write(2, state(), {})
    assert calls.count(failing) == 1
    if failing != "fsync of the folder":
        assert store.files() == {}, "no round's name stands for a file that may not be whole"


@pytest.mark.parametrize("look", [CheckpointStore.check_place, CheckpointStore.prepare])
def test_a_folder_that_cannot_be_made(tmp_path: Path, look: Callable[[CheckpointStore], None]) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UsageError, match="--checkpoint-dir: cannot make"):
        look(CheckpointStore(tmp_path / "checkpoints", "run-1"))


@pytest.mark.parametrize("look", [CheckpointStore.check_place, CheckpointStore.prepare])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[CheckpointStore], None]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    with pytest.raises(UsageError, match="cannot be written"):
        look(CheckpointStore(tmp_path, "run-1"))


def test_looking_whether_a_folder_can_be_made_makes_none(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "a" / "b", "run-1").check_place()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0, 0o022])
def test_folders_and_files_are_not_for_everybody(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = CheckpointStore(tmp_path / "checkpoints", "run-1")
        store.prepare()
        store.write(0, state(), {})
    finally:
        os.umask(before)
    modes = {place.stat().st_mode & 0o777 for place in (tmp_path / "checkpoints").rglob("*")}
    assert modes == {0o750, 0o640}


def test_a_temporary_file_is_a_new_one(store: CheckpointStore, folder: Path, tmp_path: Path) -> None:
    """What somebody has put in its place is not written through."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / ".round-000001.partial").symlink_to(victim)
    store.write(1, state(), {})
    assert victim.read_text() == "precious"
    assert not any(path.is_symlink() for path in folder.iterdir())


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
    for look in (store.check, store.clean):
        with pytest.raises(CheckpointError, match=r"round-000003.*the database lacks commits") as caught:
            look(1)
        assert "last committed round is 1" in str(caught.value)
    store.check(2)
    assert sorted(folder.iterdir()) == before


def test_pruning_twice_is_fine(store: CheckpointStore) -> None:
    written = store.write(1, state(), {})
    store.delete(written.path)
    store.delete(written.path)
    assert store.files() == {}


# --- room on the disk ------------------------------------------------------------------------------------------------


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_space(tmp_path / "a" / "b") == pytest.approx(free_space(tmp_path), rel=0.1)
