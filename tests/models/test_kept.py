"""Updates on the disk: which stay, how they are found again, and what was changed in them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flserver.aggregation.checks import state_digest
from flserver.errors import CheckpointError
from flserver.models import checkpoint
from flserver.models.kept import KeptUpdates, Missing, read_kept
from flserver.models.state import State


def tensors(value: float) -> State:
    return {"w": torch.full((2, 3), value), "n": torch.tensor(7)}


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("umask")
def test_an_accepted_update_lies_under_its_digest_for_its_owner_and_group_alone(tmp_path: Path) -> None:
    kept = KeptUpdates(tmp_path, "run")
    kept.keep(12, 5, tensors(1), state_digest(tensors(1)))
    (path,) = kept.settle(12, [5]).values()
    assert path == f"run/updates/round-000012/{state_digest(tensors(1)).removeprefix('blake3:')}.safetensors"
    assert files(tmp_path) == [path]
    assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "run" / "updates").stat().st_mode) == 0o750
    assert torch.equal(load_file(tmp_path / path)["w"], tensors(1)["w"])
    assert torch.equal(read_kept(tmp_path, path, state_digest)["w"], tensors(1)["w"])


def test_what_was_not_accepted_goes(tmp_path: Path) -> None:
    kept = KeptUpdates(tmp_path, "run")
    for update_id, value in enumerate((1, 2, 1), 1):
        kept.keep(1, update_id, tensors(value), state_digest(tensors(value)))
    settled = kept.settle(1, [1, 3])
    assert settled[1] == settled[3], "the same tensors of two clients"
    assert files(tmp_path) == [settled[1]]


def test_an_aborted_attempt_leaves_nothing(tmp_path: Path) -> None:
    kept = KeptUpdates(tmp_path, "run")
    kept.keep(1, 1, tensors(1), state_digest(tensors(1)))
    kept.settle(1, [1])
    kept.keep(2, 2, tensors(2), state_digest(tensors(2)))
    kept.forget(2)
    assert kept.on_disk() == [1]
    kept.keep(2, 3, tensors(3), state_digest(tensors(3)))
    assert list(kept.settle(2, [3])) == [3], "and the next one has its own only"


def test_what_a_crash_left_goes_at_the_next_start(tmp_path: Path) -> None:
    kept = KeptUpdates(tmp_path, "run")
    for round in (1, 2, 3):
        kept.keep(round, round, tensors(round), state_digest(tensors(round)))
    (tmp_path / "run" / "updates" / "round-000003" / ".9.partial").touch()
    (tmp_path / "run" / "updates" / "of-the-operator").mkdir()
    KeptUpdates(tmp_path, "run").clean({2})
    assert sorted(os.listdir(tmp_path / "run" / "updates")) == ["of-the-operator", "round-000002"]


@pytest.mark.parametrize(("rounds", "going"), [(0, []), (2, [1, 2]), (3, [1]), (9, [])])
def test_the_newest_rounds_stay(tmp_path: Path, rounds: int, going: list[int]) -> None:
    kept = KeptUpdates(tmp_path, "run", rounds=rounds)
    for round in (1, 2, 3, 4):
        kept.keep(round, round, tensors(round), state_digest(tensors(round)))
    assert kept.going(4) == going


def test_bytes_are_durable_before_the_name_and_the_name_before_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        done.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(checkpoint.os, "fsync", synced)
    monkeypatch.setattr(checkpoint.os, "rename", renamed)
    kept = KeptUpdates(tmp_path, "run")
    kept.keep(1, 1, tensors(1), state_digest(tensors(1)))
    assert done == ["sync .1.partial", "rename"]
    done.clear()
    kept.settle(1, [1])
    assert done[0] == "sync round-000001"
    assert {"sync updates", "sync run", f"sync {tmp_path.name}"} <= set(done), "folders that are new"


def test_a_changed_byte_and_a_file_that_is_gone_are_told_apart(tmp_path: Path) -> None:
    kept = KeptUpdates(tmp_path, "run")
    kept.keep(1, 1, tensors(1), state_digest(tensors(1)))
    (path,) = kept.settle(1, [1]).values()
    content = (tmp_path / path).read_bytes()
    for place in (2, 20, content.index(b"writer"), len(content) - 1):  # lengths, headers, a number
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / path).write_bytes(changed)
        with pytest.raises(CheckpointError) as raised:
            read_kept(tmp_path, path, state_digest)
        assert not isinstance(raised.value, Missing)
    (tmp_path / path).unlink()
    with pytest.raises(Missing):
        read_kept(tmp_path, path, state_digest)


@pytest.mark.parametrize("path", ["../x.safetensors", "/etc/passwd", "run/updates/round-000001/x.safetensors", "a\0b"])
def test_a_record_cannot_name_other_files(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match="no kept update"):
        read_kept(tmp_path, path, state_digest)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot keep update 1"):
        KeptUpdates(tmp_path, "run").keep(1, 1, tensors(1), state_digest(tensors(1)))
