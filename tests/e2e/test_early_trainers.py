"""Trainers that come while the server makes its model: registered at once, and cut off where there will be none."""

import os
from pathlib import Path

import pytest

from flserver.wire.messages import UNDERSTANDS_GOODBYE
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer
from tests.patience import PATIENCE

SLOW = """
from pathlib import Path
from torch import nn

def made():
    told = Path("model.fifo").read_text()
    if told:
        raise RuntimeError(told)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""


@pytest.fixture
def make(tmp_path: Path) -> "Path":
    """The folder of a server whose ``--model slow_net:made`` is made when something opens the pipe in it, and fails
    with what is written there."""
    (tmp_path / "slow_net.py").write_text(SLOW)
    os.mkfifo(tmp_path / "model.fifo")
    return tmp_path / "model.fifo"


def test_a_trainer_registers_and_its_window_runs_before_the_model_is_there(start: Start, make: Path) -> None:
    server = start("--model", "slow_net:made", "--num-rounds", "1", *FAST)
    with Peer(server, 1) as peer:
        peer.join()
        with peer.connect() as early:  # an upload before there is a model is an answer to none
            body = b"\x80\x04" + bytes(100_000)
            early.sendall(len(body).to_bytes(8, "big") + body)
            make.write_text("")  # returns when the model's factory has opened it
            assert early.recv(1) == b""
        peer.answer(0.5)
        peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT round, status FROM v1_rounds ORDER BY round") == [(0, "committed"), (1, "committed")]
    ((header, round, bytes_in, outcome),) = server.sql(
        "SELECT header, round, bytes, outcome FROM v1_messages WHERE direction = 'in' AND bytes = 100010"
    )
    assert (header, round, bytes_in, outcome) == (None, None, 100_010, "refused")


def test_where_the_model_fails_the_run_fails_and_the_trainers_are_cut_off(start: Start, make: Path) -> None:
    server = start("--model", "slow_net:made", "--num-rounds", "1", *FAST)
    with Peer(server, 1) as plain, Peer(server, 2) as knowing:
        plain.join()
        assert knowing.register(info={UNDERSTANDS_GOODBYE: True})["header"] == "<SUCCESS>"
        make.write_text("no such layer")
        assert plain.connection.recv(1) == b"", "an unchanged trainer would take <FINISHED> for the end"
        knowing.stopped()
    assert server.exit_code() == 1
    reason = "--model 'slow_net:made' failed: RuntimeError: no such layer"
    assert server.lines[-1].endswith(f"failed: {reason}")
    assert server.sql("SELECT status, rounds_committed FROM v1_runs") == [("failed", 0)]
    assert server.sql("SELECT exit_code FROM v1_processes") == [(1,)]
    assert server.sql("SELECT left_reason FROM v1_clients") == [("stopped",), ("stopped",)]
    ((state,),) = server.sql("SELECT payload FROM v1_events WHERE type = 'StateChanged' ORDER BY seq DESC LIMIT 1")
    assert reason in state


def test_where_it_fails_before_anybody_came_nothing_is_left(start: Start, make: Path) -> None:
    server = start("--model", "slow_net:made")
    server.wait_for_line("listening for trainers")
    make.write_text("no such layer")
    assert server.process.wait(PATIENCE) == 2
    assert not server.db.exists()
