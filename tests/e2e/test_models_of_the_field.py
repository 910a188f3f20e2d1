"""Models of the kinds that people train, from a real server to trainers with plain pickle and back."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import warm
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, TESTS, Peer, ServerProcess
from tests.fldata import write_fldata
from tests.models.zoo import one_buffer
from tests.patience import PATIENCE

Join = Callable[..., list[Peer]]


def zoo(name: str) -> tuple[str, str]:
    return "--model", f"tests.models.zoo:{name}"


def files_of(server: ServerProcess) -> set[str]:
    """Files that the server has mapped although they have no name any more: updates outside memory."""
    maps = Path(f"/proc/{server.process.pid}/maps").read_text().splitlines()
    return {line for line in maps if line.endswith("(deleted)") and ".checkpoints/" in line}


def test_weights_that_are_views_of_one_buffer_are_the_update_that_they_would_be_without_it(
    start: Start, join: Join
) -> None:
    """Each of ten tensors brings the whole buffer along; what is kept is one, and it stays in memory."""
    server = start("--num-rounds", "2", "--min-clients", "2", "--receive-memory", "64", *zoo("recurrent"), *FAST)
    peers = join(server, "a", "b")
    for _ in range(2):
        for peer in peers:
            model = peer.model()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01)
            peer.upload(one_buffer(model) if peer is peers[1] else model)
            assert files_of(server) == set()
    for peer in peers:
        peer.finished()
    assert server.exit_code() == 0
    rows = server.sql("SELECT answers_round, client_id, decision, update_digest FROM v1_updates ORDER BY 1, 2")
    assert [row[:3] for row in rows] == [(n, who, "accepted") for n in (1, 2) for who in ("a", "b")]
    assert rows[0][3] == rows[1][3]
    assert rows[2][3] == rows[3][3]
    sizes = dict(server.sql("SELECT client_id, bytes FROM v1_messages WHERE header = '<MODEL>' AND direction = 'in'"))
    assert sizes["b"] > 8 * sizes["a"]


@pytest.mark.parametrize("name", ["adapters"])
def test_a_model_of_thousands_of_parts_goes_there_and_back(start: Start, join: Join, name: str) -> None:
    server = start("--num-rounds", "1", *zoo(name), *FAST)
    (peer,) = join(server, 1)
    peer.answer(0.5)
    peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, reason FROM v1_updates") == [("accepted", None)]


@pytest.mark.parametrize("name", ["weight_norm", "everything"])
def test_hooks_and_whatever_else_pickle_carries_go_to_both_kinds_of_trainers_and_back(
    start: Start, join: Join, tmp_path: Path, name: str
) -> None:
    """Hooks of torch's own, lazy layers after a dry run, tensors without dimensions or elements: all in one."""
    server = start("--num-rounds", "2", "--min-clients", "2", *zoo(name), *FAST)
    data = write_fldata(tmp_path / "FLdata", [3], samples=40)
    command = ["-m", "flclient", "--client-id", "3", "--server-port", str(server.port), *zoo(name)]
    command += ["--data-dir", str(data), "--epochs", "1", "--learning-rate", "0.1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    trainer = warm.start(command, cwd=TESTS.parent, env=environment, **streams)
    try:
        (plain,) = join(server, "plain")
        for _ in range(2):
            model = plain.model()
            hooks = [hook for part in model.modules() for hook in part._forward_pre_hooks.values()]
            assert hooks, "they came as they were"
            assert torch.isfinite(model(torch.rand(4, 784))).all()
            plain.upload(model)
        plain.finished()
        output, _ = trainer.communicate(timeout=PATIENCE)
    finally:
        trainer.kill()
        trainer.wait()
    assert trainer.returncode == 0, output
    assert server.exit_code() == 0
    decided = server.sql("SELECT answers_round, client_id, decision FROM v1_updates ORDER BY 1, 2")
    assert decided == [(n, who, "accepted") for n in (1, 2) for who in ("3", "plain")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("parametrized", "--model tests.models.zoo:parametrized cannot be pickled: body"),
        ("lazy", "has no shape yet: a lazy module needs a dry run in the factory"),
    ],
    ids=["parametrized", "lazy"],
)
def test_a_model_that_pickle_does_not_carry_is_refused_in_one_line(start: Start, name: str, reason: str) -> None:
    server = start(*zoo(name))
    assert server.exit_code() == 2
    assert reason in server.log.splitlines()[-1]
