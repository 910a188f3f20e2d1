"""The ingest nodes of this machine, where they cannot be kept alive."""

import threading
from pathlib import Path

import pytest

from flserver.events import ClientLeft
from flserver.identity.rules import Identity
from flserver.ingest.desk import Desk
from flserver.ingest.ids import Ids
from flserver.network.listener import Listener
from flserver.process import nodes
from flserver.rounds import Rounds
from flserver.rounds.exchange import Exchange
from flserver.rounds.model import CurrentModel
from flserver.settings import server_settings
from tests.patience import PATIENCE
from tests.recorder import RecordingRecorder
from tests.rounds.policies import policy


def test_a_run_whose_nodes_all_end_at_once_ends_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    exchange = Exchange(Rounds(policy(), {}, None, Identity()), CurrentModel(0, {}, None))
    recorder, ended, why = RecordingRecorder(), threading.Event(), list[str]()

    def end_run(reason: str) -> None:
        why.append(reason)
        ended.set()

    desk = Desk(exchange, recorder, Ids({"message_id": 1, "connection_id": 1, "update_id": 1}))
    settings = server_settings({"db": str(tmp_path / "runs.sqlite"), "ingest": 2})
    two = nodes.Nodes(settings, Listener("127.0.0.1", 0), desk, "run", end_run)
    two.start()
    try:
        assert ended.wait(PATIENCE)
    finally:
        two.close(0.0)
    assert why == [nodes.NONE_LEFT]
    assert f"{nodes.DEATHS} nodes went within" in caplog.text
    assert not recorder.of(ClientLeft)
