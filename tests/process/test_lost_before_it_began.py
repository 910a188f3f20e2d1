"""A start that has lost its run before it began touches nothing: neither the database nor what lies in the folder."""

import os
from pathlib import Path
from typing import Any

import pytest

from flserver.errors import UsageError
from flserver.process import app
from flserver.process.launch import launch
from flserver.settings import server_settings
from flserver.store.lock import DatabaseLock
from flserver.store.schema import check, downgrade
from tests.recorded_run import PLAIN, write_database


class Ready:
    """What is prepared already."""

    done = True

    def __init__(self, *given: object) -> None:
        self._end, running = os.pipe()
        os.close(running)

    def start(self) -> None:
        """It is."""

    def fileno(self) -> int:
        return self._end

    def result(self) -> None:
        """Nothing that anybody asks for."""

    def close(self) -> None:
        os.close(self._end)


class Began:
    """The server, which is not to come to that."""

    def __init__(self, *given: object) -> None:
        raise AssertionError("it has begun")


@pytest.mark.parametrize("lost_at", [1, 2])
def test_it_is_asked_for_the_run_before_the_database_is_touched_and_before_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_at: int
) -> None:
    db = tmp_path / "runs.sqlite"
    write_database(db)
    downgrade(db, "0014")
    folder = db.with_name(f"{db.name}.checkpoints") / PLAIN
    left = folder / f"round-000001-{'0' * 16}.safetensors"  # the one that has the run by now is about to commit it
    left.write_bytes(b"the other server's")
    seen: list[tuple[bool, bool]] = []

    def require_run(lock: DatabaseLock) -> None:
        seen.append((check(db).at_head, left.exists()))
        if len(seen) == lost_at:
            raise UsageError("another server has taken the run")

    monkeypatch.setattr(DatabaseLock, "require_run", require_run)
    for name, stand_in in {"Preparation": Ready, "App": Began}.items():
        monkeypatch.setattr(app, name, stand_in)
    for name in ("allow_descriptors", "limit_arenas"):
        monkeypatch.setattr(app, name, lambda: None)
    given: dict[str, Any] = {"db": db, "resume": True, "run_name": "plain", "server_port": 0, "metrics_port": 0}
    with pytest.raises(UsageError, match="another server has taken the run"):
        launch(server_settings(given), given, [], lambda line: None)
    assert seen == [(False, True), (True, True)][:lost_at]
    assert left.exists()
