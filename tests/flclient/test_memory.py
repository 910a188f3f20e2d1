"""How much memory the trainer's program takes, in models, against a plain-pickle server on real sockets."""

import importlib
import os
import re
import subprocess
from pathlib import Path

from tests import warm
from tests.flclient.plain_server import PlainServer
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
MODEL_BYTES = 32 * 2**20
HEAVY = f"""
import torch
from torch import nn

class Heavy(nn.Module):
    "Large, and trained at no cost: what is large is no parameter."

    def __init__(self):
        super().__init__()
        self.register_buffer("ballast", torch.rand({MODEL_BYTES // 4}))
        self.fc1 = nn.Linear(784, 10)

    def forward(self, x):
        return self.fc1(x)
"""


def memory(process, what):
    """Bytes, as the system counts them: VmRSS is what it has now, VmHWM the most that it ever had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) * 1024


def test_beside_its_own_model_it_has_the_one_that_it_received_and_no_other(fldata, tmp_path, monkeypatch):
    (tmp_path / "heavy_net.py").write_text(HEAVY)
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("heavy_net").Heavy()
    seen = {}

    def script(server):
        connection = server.admit()
        seen["registered"] = memory(process, "VmRSS")
        for _ in range(2):
            server.round(connection, model)
        seen["most"] = memory(process, "VmHWM")
        server.finish(connection)

    with PlainServer(script) as server:
        arguments = ["--client-id", "3", "--server-port", str(server.port), "--data-dir", str(fldata)]
        process = warm.start(
            ["-m", "flclient", *arguments, "--model", "heavy_net:Heavy", "--epochs", "1"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path))), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
        )
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.wait(PATIENCE) == 0, said
    assert 0.9 * MODEL_BYTES < seen["most"] - seen["registered"] < 1.5 * MODEL_BYTES
