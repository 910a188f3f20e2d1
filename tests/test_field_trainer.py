"""The trainer that stands in for the field does what the other tests use it for."""

import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from flserver.models.architectures import DEFAULT_MODEL, build
from tests import warm
from tests.flclient.plain_server import PlainServer, read_frame
from tests.fldata import write_fldata
from tests.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("forker")
SCRIPT = Path(__file__).with_name("field_trainer.py")


@pytest.fixture(scope="module")
def fldata(tmp_path_factory):
    return write_fldata(tmp_path_factory.mktemp("fldata"), [1, 2], samples=40)


def start(server, fldata, *arguments):
    given = ["--client-id", "1", "--server-port", str(server.port), "--data", str(fldata), *arguments]
    return warm.start([str(SCRIPT), *given], cwd=fldata, env=os.environ, stdout=subprocess.PIPE)


def test_it_trains_each_model_and_leaves_when_the_run_is_over(fldata):
    sent = build(DEFAULT_MODEL, 1)
    received = []

    def script(server):
        connection = server.admit()
        for _ in range(2):
            received.append(server.round(connection, sent))
        server.finish(connection)

    with PlainServer(script) as server, start(server, fldata, "--epochs", "3", "--learning-rate", "0.1") as trainer:
        out, _ = trainer.communicate(timeout=PATIENCE)
    assert trainer.returncode == 0
    assert server.hellos == [{"header": "<METADATA>", "id": 1, "data_size": 40}]
    assert [set(answer) for answer in server.answers] == [{"header", "id", "model"}] * 2
    first, second = (model.state_dict() for model in received)
    assert all(torch.equal(first[name], second[name]) for name in first), "it trains on a copy"
    assert not torch.equal(first["fc1.weight"], sent.fc1.weight)
    assert [line.split(":")[0] for line in out.splitlines()] == ["welcome", "model 1", "model 2", "finished"]


def test_a_refused_one_prints_the_message_and_leaves(fldata):
    with PlainServer(lambda server: server.admit("<ERROR>", "too late")) as server, start(server, fldata) as trainer:
        assert trainer.communicate(timeout=PATIENCE)[0] == "too late\n"
    assert trainer.returncode == 1


def test_it_dies_in_training_and_uploads_twice_on_request(fldata):
    def script(server):
        connection = server.admit()
        server.round(connection, build(DEFAULT_MODEL, 1))
        with server.accept() as again:
            server.answers.append(pickle.loads(read_frame(again)))
        server.send_model(connection, build(DEFAULT_MODEL, 1))
        assert connection.recv(1) == b""

    with PlainServer(script) as server, start(server, fldata, "--upload-twice", "--die-at-round", "2") as trainer:
        trainer.communicate(timeout=PATIENCE)
    assert trainer.returncode == 1
    assert len(server.answers) == 2


def test_it_waits_before_the_upload_and_freezes_on_request(fldata):
    def script(server):
        connection = server.admit()
        server.round(connection, build(DEFAULT_MODEL, 1))
        server.send_model(connection, build(DEFAULT_MODEL, 1))

    arguments = ("--upload-delay", "0.3", "--freeze-at-round", "2")
    with PlainServer(script) as server, start(server, fldata, *arguments) as trainer:
        lines = [trainer.stdout.readline() for _ in range(3)]
        assert lines[-1] == "model 2: frozen\n"
        with pytest.raises(subprocess.TimeoutExpired):
            trainer.wait(0.3)
        trainer.kill()
