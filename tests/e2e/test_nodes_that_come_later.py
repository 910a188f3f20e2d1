"""A node that comes in the middle of a run, when its files are not what they were: the server's are in force."""

import os
import re
import signal
from pathlib import Path

from tests.e2e.command import flserver
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, ServerProcess
from tests.patience import eventually

MODEL = """
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.{} = nn.Linear(4, 4)
        self.{} = nn.Linear(4, 4)

def make():
    return nn.Sequential(Two())
"""


def kill(server: ServerProcess, node: str) -> None:
    process = re.search(rf"{node} serves trainers, process (\d+)", server.log)
    assert process is not None
    os.kill(int(process[1]), signal.SIGKILL)
    server.wait_for_line(f"{node} is gone: its process was killed by SIGKILL")


def test_it_has_the_servers_roster_whatever_the_file_is_and_is_none_with_another_model(
    start: Start, tmp_path: Path
) -> None:
    model, roster = tmp_path / "hospital.py", tmp_path / "clients.csv"
    model.write_text(MODEL.format("first", "second"))
    roster.write_text("id\n1\n2\n")
    options = ("--min-clients", "2", "--ingest", "2", "--clients", str(roster), "--model", "hospital:make")
    server = start("--num-rounds", "3", *options, *FAST)
    server.wait_for_line("node-2 serves trainers")
    eventually(lambda: server.health()[1]["nodes"] == {"serving": 2, "of": 2})
    roster.write_text("id\n1\n")
    kill(server, "node-1")
    server.wait_for_line("node-3 serves trainers")
    eventually(lambda: server.health()[1]["nodes"] == {"serving": 2, "of": 2})
    # The same tensors, the other way round: their bytes would be taken for each other.
    model.write_text(MODEL.format("second", "first"))
    kill(server, "node-2")
    why = f"node-4 is gone: its model could not be made: --model hospital:make: {model} is not what this run's server"
    server.wait_for_line(re.escape(why))
    model.write_text(MODEL.format("first", "second"))
    eventually(lambda: server.health()[1]["nodes"] == {"serving": 2, "of": 2})
    assert "Traceback" not in server.log
    assert server.terminate() == 3
    code, said = flserver("--db", server.db, "verify")
    assert code == 0, said
