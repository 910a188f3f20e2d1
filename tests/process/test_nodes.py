"""The ingest nodes of this machine, where they cannot be kept alive."""

import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from flserver.events import ClientLeft, NodeLost
from flserver.identity.rules import Identity
from flserver.ingest.desk import Desk
from flserver.ingest.ids import Ids
from flserver.network.listener import Listener
from flserver.process import nodes
from flserver.process.node import make_model
from flserver.rounds import Rounds
from flserver.rounds.exchange import Exchange
from flserver.rounds.model import CurrentModel
from flserver.settings import server_settings
from tests.patience import PATIENCE
from tests.recorder import RecordingRecorder
from tests.rounds.policies import policy


class Durable(RecordingRecorder):
    """Says how many losses are on record, as the log would tell of each then."""

    def flush(self) -> None:
        super().flush()
        logging.getLogger("flserver").info("on record: %d", len(self.of(NodeLost)))


def test_a_run_whose_nodes_all_end_at_once_ends_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flserver")
    monkeypatch.setattr("sys.executable", "/bin/false")
    exchange = Exchange(Rounds(policy(), {}, None, Identity()), CurrentModel(0, {}, None))
    recorder, ended, why = Durable(), threading.Event(), list[str]()

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
    assert {lost.reason for lost in recorder.of(NodeLost)} == {"its process ended"}
    on_record = 0
    for line in caplog.messages:
        if line.startswith("on record: "):
            on_record = max(on_record, int(line.removeprefix("on record: ")))
        elif line.startswith("node-") and " serves trainers" in line:
            number = int(line.split()[0].removeprefix("node-"))
            assert on_record >= number - 2, "a loss is told of before another comes in its place"


@pytest.mark.parametrize("over", [True, False])
def test_a_model_that_fails_counts_only_while_its_node_serves(over: bool, caplog: pytest.LogCaptureFixture) -> None:
    """After its goodbye the interpreter ends, and what still imports fails of that."""
    told = list[object]()
    asking = SimpleNamespace(outbox=SimpleNamespace(over=over), tell=told.append)
    make_model(SimpleNamespace(asking=asking), None, "run")  # type: ignore[arg-type]
    assert ("the model could not be made" in caplog.text, len(told)) == ((False, 0) if over else (True, 1))
