"""A run that begins at a round of another one, which stays as it is: the way out after a poisoned round."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flserver.cli.main import run_cli
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess, sql
from tests.recorded_run import RUN, write_database

Join = Callable[..., list[Peer]]
COUNTING = '''
import torch
from flserver.aggregation import FedAvg


class Counting(FedAvg):
    """FedAvg that keeps how many rounds it has made."""

    rounds = 0

    def finish(self):
        self.rounds += 1
        return super().finish()

    def state(self):
        return {"rounds": torch.tensor(self.rounds)}

    def load_state(self, state):
        self.rounds = int(state["rounds"])
'''
COMMITTED = "SELECT round, model_digest FROM v1_rounds WHERE run_id = ? AND status = 'committed' ORDER BY round"
LINEAGE = "SELECT run_id, name, status, num_rounds, parent_run_id, parent_round FROM v1_runs ORDER BY started_at"
ANY_PORT = ("--server-port", "0", "--metrics-port", "0")
NEVER = "import threading\n\ndef evaluate(model, round):\n    threading.Event().wait()\n"
NOTHING = "def evaluate(model, round):\n    return {}\n"


@pytest.fixture
def poisoned(start: Start, join: Join, tmp_path: Path) -> tuple[ServerProcess, str]:
    """A run of five rounds of which the third one is poisoned, killed then: its server, and the run's id. Of its
    checkpoints those of rounds 2 and 3 are kept."""
    (tmp_path / "counting.py").write_text(COUNTING)
    (tmp_path / "measure.py").write_text(NOTHING)
    options = ("--strategy", "counting:Counting", "--evaluate", "measure:evaluate", "--keep-checkpoints", "2")
    server = start("--num-rounds", "5", "--run-name", "night", "--min-clients", "2", *FAST, *options)
    a, b = join(server, "a", "b")
    for change in (0.5, 0.25):
        answer(a, b, change)
    model = b.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e15)  # finite, and the end of all learning
    b.upload(model)
    a.answer()
    server.wait_for_line("round 3/5 committed")
    server.wait_for_sql("SELECT 1 FROM v1_rounds WHERE round = 1 AND checkpoint_deleted_at NOT NULL")
    server.kill()
    ((run_id,),) = server.sql("SELECT run_id FROM v1_runs")
    return server, run_id


def answer(a: Peer, b: Peer, change: float) -> None:
    a.answer(change)
    b.answer(change)


def finish(server: ServerProcess, a: Peer, b: Peer) -> None:
    a.finished()
    b.finished()
    assert server.exit_code() == 0


def digests(server: ServerProcess, run_id: str) -> dict[int, str]:
    return dict(server.sql(COMMITTED, run_id))


def test_after_a_poisoned_round_children_begin_at_a_sound_one_and_the_parent_stays(
    poisoned: tuple[ServerProcess, str],
    start: Start,
    join: Join,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A child that is killed before its round 0, stopped after its round 1, and goes on while there is a second one."""
    before, parent = poisoned
    rounds = digests(before, parent)
    (tmp_path / "measure.py").write_text(NEVER)
    stuck = start("--run-name", "night", "--resume-from", "2")
    child = stuck.wait_for_line(rf"run (\S+) \(night\) started: 3 rounds, from round 2 of {parent}")[1]
    stuck.wait_for_sql("SELECT 1 FROM v1_rounds WHERE run_id = ?", child)
    stuck.kill()
    (tmp_path / "measure.py").write_text(NOTHING)
    resumed = start("--resume")
    resumed.wait_for_line(f"run {child} resumed from no committed round of 3")
    a, b = join(resumed, "a", "b")
    answer(a, b, 0.125)
    resumed.wait_for_line("round 2/3 started")
    a.connection.close()
    b.connection.close()
    assert resumed.terminate() == 3
    command = resumed.wait_for_line(r"to go on: .*flserver --db \S+ (--resume .*)")[1]
    assert command == f"--resume --run-name {child}"
    assert digests(resumed, child)[0] == rounds[2], "the very tensors, the strategy's own among them"

    second = start("--resume-from", "2", "--run-name", parent, "--num-rounds", "1", "--strategy", "fedavg")
    second.wait_for_line("num_rounds is now 1, was 3")
    second.wait_for_line("strategy is now fedavg, was counting:Counting")
    a, b = join(second, "a", "b")
    answer(a, b, 0.125)
    finish(second, a, b)

    last = start(*command.split())
    a, b = join(last, "a", "b")
    for _ in range(2):
        answer(a, b, 0.125)
    finish(last, a, b)
    (other,) = {run_id for (run_id,) in last.sql("SELECT run_id FROM v1_runs")} - {parent, child}
    assert last.sql(LINEAGE) == [
        (parent, "night", "interrupted", 5, None, None),
        (child, "night", "completed", 3, parent, 2),
        (other, "night", "completed", 1, parent, 2),
    ]
    assert digests(last, parent) == rounds
    assert sorted(digests(last, child)) == [0, 1, 2, 3]
    assert digests(last, other)[0] != rounds[2], "another strategy keeps nothing of this one's own"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for module in ("counting", "measure"):  # forgotten after the test
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]
    for arguments, said in (
        (["verify"], " hold"),
        (["show", child], f"from round 2 of run {parent}"),
        (["runs"], parent),
        (["check", "--resume", "--run-name", parent, *ANY_PORT], "run: night goes on, 3 of 5 rounds are committed"),
    ):
        assert run_cli(arguments) == 0, arguments
        assert said in capsys.readouterr().out


def test_on_an_open_port_a_child_waits_for_as_many_as_somebody_said_and_a_resumed_run_warns(
    start: Start, join: Join
) -> None:
    """Of a run that one client alone began, where nobody else could reach it."""
    everywhere = ("--host", "0.0.0.0", "--insecure")
    parent = start("--num-rounds", "3", *FAST)
    (a,) = join(parent, "a")
    a.answer(0.5)
    parent.wait_for_line("round 1/3 committed")
    parent.kill()
    record = "SELECT COUNT(*) FROM v1_events"
    events = parent.sql(record)
    refused = start("--resume-from", "1", *everywhere)
    assert refused.exit_code() == 2
    assert "Say how many clients it begins with, as in --min-clients 3, or admit none but yours" in refused.lines[-1]
    assert refused.sql(record) == events, "nothing of it is on record"

    child = start("--resume-from", "1", "--min-clients", "2", "--num-rounds", "1", *everywhere)
    with Peer(child, "a").join() as stranger:
        child.wait_for_line("1 more client needed by --min-clients or --min-updates")
        with Peer(child, "b").join() as b:
            answer(stranger, b, 0.25)
            finish(child, stranger, b)
    ((run_id,),) = child.sql("SELECT run_id FROM v1_runs WHERE parent_round = 1")
    ((parent_id,),) = child.sql("SELECT run_id FROM v1_runs WHERE parent_run_id IS NULL")
    assert digests(child, run_id)[0] == digests(child, parent_id)[1]
    resumed = start("--resume", "--run-name", parent_id, *everywhere)
    warned = "whoever reaches this port may register, and the run goes on with one client alone (--min-clients 1)"
    resumed.wait_for_line(re.escape(f"WARNING --host 0.0.0.0: {warned}"))
    with Peer(resumed, "a").join() as a:
        for _ in range(2):
            a.answer(0.25)
        a.finished()
    assert resumed.exit_code() == 0
    said = start("--resume", "--run-name", parent_id, "--num-rounds", "4", "--min-clients", "1", *everywhere)
    said.wait_for_line("state: joining")
    assert warned not in said.log


def test_what_no_child_can_begin_with_is_one_line(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_database(tmp_path / "runs.sqlite")
    monkeypatch.chdir(tmp_path)
    record = "SELECT COUNT(*) FROM v1_events"
    ((events,),) = sql(tmp_path / "runs.sqlite", record)
    for arguments, reason in {
        "--resume-from 4": "run night has no committed round 4; the last one is 3",
        "--resume-from 1": "run night has no checkpoint of round 1 any more",
        "--resume-from 2 --resume": "leave one of the two out",
        "--resume-from 2": "run night has no round after it",
        "--resume-from 2 --run-name day": "there is no run named day",
    }.items():
        assert run_cli(["check", "--run-name", "night", *ANY_PORT, *arguments.split()]) == 2, arguments
        first, *_ = capsys.readouterr().err.splitlines()
        assert first.startswith("flserver: --"), arguments
        assert reason in first
    (file,) = (tmp_path / "runs.sqlite.checkpoints" / RUN).glob("round-000002-*")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    refused = start("--resume-from", "2", "--run-name", "night", "--num-rounds", "1")
    assert refused.exit_code() == 2
    assert refused.lines[-1].startswith("flserver: --resume-from 2: ")
    assert "does not match its digest" in refused.lines[-1]
    assert refused.sql(record) == [(events,)], "nothing of it is on record"
