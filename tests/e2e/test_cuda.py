"""What trainers on a GPU send, and the server and our own trainer on one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer
from tests.e2e.trainers import our_trainers, trainers
from tests.fldata import write_fldata

pytestmark = pytest.mark.cuda

Join = Callable[..., list[Peer]]


def test_trainers_on_a_gpu_and_on_the_cpu_train_one_model(start: Start, tmp_path: Path) -> None:
    """The field's models carry the location cuda:0. The server measures on the GPU and averages on the CPU."""
    data = write_fldata(tmp_path / "FLdata", [1, 2, 3], samples=40)
    settings = ("--num-rounds", "3", "--min-clients", "3", "--use-cuda", "True", "--eval-data", "fldata")
    server = start(*settings, "--data-dir", str(data), *FAST)
    gpu = {"data_dir": data, "dataset": "fldata", "use_cuda": "True", "epochs": 1}
    with (
        trainers(server, data, 1, device="cuda", epochs=1),
        trainers(server, data, 2, epochs=1),
        our_trainers(server, 3, **gpu),
    ):
        pass
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, count(*) FROM v1_updates GROUP BY 1") == [("accepted", 9)]
    accuracies = [accuracy for (accuracy,) in server.sql("SELECT accuracy FROM v1_rounds ORDER BY round")]
    assert len(accuracies) == 4
    assert accuracies[-1] > accuracies[0]
    ((info,),) = server.sql("SELECT info FROM v1_clients WHERE client_id = '3'")
    assert json.loads(info)["device"] == "cuda"


def test_the_gpu_measures_what_the_cpu_measures(start: Start, join: Join, tmp_path: Path) -> None:
    """Losses agree to float32's rounding; the model that is averaged on the CPU is the same, bit for bit."""
    data = write_fldata(tmp_path / "FLdata", [1], samples=40)
    rows = []
    for name, on_gpu in (("gpu", "True"), ("cpu", "False")):
        settings = ("--num-rounds", "1", "--seed", "3", "--eval-data", "fldata", "--data-dir", str(data))
        server = start("--run-name", name, "--use-cuda", on_gpu, *settings, *FAST)
        (peer,) = join(server, 1)
        peer.answer(0.01)
        peer.finished()
        assert server.exit_code() == 0
        query = "SELECT model_digest, loss FROM v1_rounds JOIN v1_runs USING (run_id) WHERE name = ? ORDER BY round"
        rows.append(server.sql(query, name))
    gpu, cpu = rows
    assert [digest for digest, _ in gpu] == [digest for digest, _ in cpu]
    assert [loss for _, loss in gpu] == pytest.approx([loss for _, loss in cpu], rel=1e-4)


def test_recurrent_weights_that_cudnn_keeps_in_one_buffer_count(start: Start, join: Join) -> None:
    """On a GPU every weight of an LSTM is a view of one buffer, which pickle writes once for each."""
    server = start("--num-rounds", "1", "--min-clients", "2", "--model", "tests.models.zoo:recurrent", *FAST)
    on_gpu, on_cpu = join(server, "gpu", "cpu")
    for peer in (on_gpu, on_cpu):
        model = peer.model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        peer.upload(model.to("cuda") if peer is on_gpu else model)
    for peer in (on_gpu, on_cpu):
        peer.finished()
    assert server.exit_code() == 0
    (cpu, gpu) = server.sql(
        "SELECT u.decision, u.update_digest, m.bytes FROM v1_updates u JOIN v1_messages m USING (message_id)"
        " ORDER BY u.client_id"
    )
    assert cpu[:2] == gpu[:2]
    assert cpu[0] == "accepted"
    assert gpu[2] > 2 * cpu[2]
