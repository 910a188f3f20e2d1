"""What is said of the disks before a start, and where they have too little."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from flserver.errors import UsageError
from flserver.process import room
from flserver.process.basis import clean_complete
from flserver.process.room import check_room
from flserver.rounds.model import CurrentModel
from flserver.settings import ServerSettings, server_settings
from tests.process.runs import FakeReader, found

MODEL = CurrentModel(-1, {"w": torch.zeros(1_000_000)}, None)  # 4 MB


def settings(tmp_path: Path, **given: Any) -> ServerSettings:
    return server_settings({"db": str(tmp_path / "runs.sqlite"), "receive_memory": 1} | given)


def said(monkeypatch: pytest.MonkeyPatch, free: int, of: ServerSettings) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(room, "free_space", lambda folder: free)
    check_room(of, MODEL, lines.append)
    return lines


def test_updates_that_memory_has_no_room_for_lie_beside_the_checkpoints_or_in_the_systems_folder(
    tmp_path: Path,
) -> None:
    beside, given = tmp_path / "runs.sqlite.checkpoints", str(tmp_path / "spool")
    assert settings(tmp_path).store.spool_dir == beside
    assert settings(tmp_path, checkpoint_dir=str(tmp_path / "c")).store.spool_dir == tmp_path / "c"
    assert settings(tmp_path, checkpoint_dir="s3://models/x").store.spool_dir == Path(tempfile.gettempdir())
    assert settings(tmp_path, checkpoint_dir="s3://models/x", spool_dir=given).store.spool_dir == Path(given)


def test_of_a_bucket_it_is_said_what_comes_and_of_the_spool_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = said(monkeypatch, 10**12, settings(tmp_path, checkpoint_dir="s3://models/x", num_rounds=2))
    assert lines[0].startswith("checkpoints: about 12.0 MB for 2 rounds to come, in s3://models/x")
    assert lines[-1] == f"updates beyond --receive-memory: 1.0 TB free at {tempfile.gettempdir()}"
    assert len(said(monkeypatch, 10**12, settings(tmp_path))) == 2, "one disk is not told of twice"


def test_a_spool_to_which_nothing_can_go_is_refused_where_a_round_may_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    where = {"checkpoint_dir": "s3://models/x", "spool_dir": str(tmp_path)}
    with pytest.raises(UsageError, match=r"a round's updates, about 104\.\d MB, and .* another --spool-dir"):
        said(monkeypatch, 10**7, settings(tmp_path, **where, min_clients=26))
    said(monkeypatch, 10**8, settings(tmp_path, **where, min_clients=26))
    assert not caplog.messages
    said(monkeypatch, 10**7, settings(tmp_path, **where, receive_memory=1000))
    assert "an update that memory has no room for will be refused" in caplog.text


def test_a_complete_runs_folder_may_be_named_anew(tmp_path: Path) -> None:
    """What is given is text, as it was typed."""
    here = settings(tmp_path)
    clean_complete(found("completed", checkpoint_dir="/nowhere"), FakeReader(), str(tmp_path), here.store)  # type: ignore[arg-type]
