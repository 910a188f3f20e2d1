"""The trainer as its user runs it, against a plain-pickle server on real sockets."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from flclient.settings import CLIENT_SETTINGS
from flserver.models.architectures import DEFAULT_MODEL, build
from flserver.settings import DATASETS, defaults
from flserver.wire.messages import wire_id
from tests import warm
from tests.flclient.plain_server import PlainServer
from tests.models.zoo import Recurrent, adapters, one_buffer, recurrent
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]


def three_rounds(server):
    connection = server.admit()
    model = build(DEFAULT_MODEL, 9)
    for protocol in (3, 4, 5):
        model = server.round(connection, model, protocol=protocol)
    server.finish(connection)


@pytest.mark.parametrize(("client_id", "sent"), [("3", 3), ("host-a", "host-a")])
def test_a_run_with_a_server_of_the_field(flclient, fldata, client_id, sent):
    with PlainServer(three_rounds) as server:
        code, out, err = flclient("--client-id", client_id, "--server-port", server.port, "--data-dir", fldata)
    assert (code, err) == (0, "")
    hello = server.hellos[0]
    assert (hello["id"], hello["data_size"]) == (sent, 60)
    assert type(hello["id"]) is type(sent)
    expected = {"learning_rate": 0.7, "epochs": 8, "batch_size": None, "partition": "iid", "seed": 0}
    assert hello["info"].items() >= expected.items()
    assert hello["info"]["device"] in ("cpu", "cuda")
    assert set(hello["info"]["versions"]) == {"flclient", "python", "torch"}
    for answer in server.answers:
        assert set(answer) == {"header", "id", "model", "metrics"}
        assert (answer["header"], answer["id"]) == ("<MODEL>", sent)
        assert type(answer["model"]) is type(build(DEFAULT_MODEL, 0))
        assert set(answer["metrics"]) == {"loss", "accuracy", "seconds"}
        assert answer["metrics"]["loss"]["trained"] > 0
        assert 0 <= answer["metrics"]["accuracy"]["received"] <= 1
    # What one round trained is what the next received: the numbers in the upload are those of its model.
    first, second, third = (answer["metrics"] for answer in server.answers)
    assert second["loss"]["received"] == pytest.approx(first["loss"]["trained"])
    assert third["accuracy"]["received"] == pytest.approx(second["accuracy"]["trained"])
    assert out.startswith(
        f"client {sent}: registered with 60 training samples: welcome\nclient {sent}: model 1: received loss "
    )
    assert out.endswith(f"client {sent}: the run is over; models trained: 3\n")


@pytest.mark.parametrize(
    "sent", [adapters(), one_buffer(recurrent())], ids=["thousands of parts", "one buffer for all weights"]
)
def test_a_servers_model_of_many_parts_or_in_one_buffer_is_taken(flclient, fldata, sent):
    def script(server):
        connection = server.admit()
        server.round(connection, sent)
        server.finish(connection)

    spec = "tests.models.zoo:recurrent" if isinstance(sent, Recurrent) else "tests.models.zoo:adapters"
    model = ("--model", spec, "--epochs", 1)
    with PlainServer(script) as server:
        code, _, err = flclient(
            "--client-id", 3, "--server-port", server.port, "--data-dir", fldata, *model, "--learning-rate", "0.1"
        )
    assert (code, err) == (0, "")
    assert list(server.answers[0]["model"].state_dict()) == list(sent.state_dict())


def test_refused_is_the_servers_message_and_exit_code_1(flclient, fldata):
    with PlainServer(lambda server: server.admit("<ERROR>", "The server has already started")) as server:
        code, _, err = flclient(
            "--client-id", 3, "--server-port", server.port, "--data-dir", fldata, "--reconnect", "5"
        )
    assert (code, err) == (1, "flclient: The server has already started\n")


def test_another_model_than_the_servers_is_one_line_and_exit_code_2(flclient, fldata):
    def script(server):
        connection = server.admit()
        server.send_model(connection, torch.nn.Linear(3, 2))

    with PlainServer(script) as server:
        code, _, err = flclient("--client-id", 3, "--server-port", server.port, "--data-dir", fldata)
    assert code == 2
    assert err == "flclient: the server's model is not --model: it lacks fc1.weight\n"


def test_a_lost_connection_without_reconnect_is_exit_code_1(flclient, fldata):
    with PlainServer(lambda server: server.admit().close()) as server:
        code, _, err = flclient("--client-id", 3, "--server-port", server.port, "--data-dir", fldata)
    assert code == 1
    assert re.fullmatch(r"flclient: the (server closed the connection|connection was lost: .*)\n", err)


def test_reconnect_registers_again_until_it_is_admitted(flclient, fldata):
    def script(server):
        connection = server.admit()
        server.round(connection, build(DEFAULT_MODEL, 1))
        connection.close()
        server.admit("<ERROR>", "client 3 is still connected").close()
        server.accept().close()
        three_rounds(server)

    with PlainServer(script) as server:
        code, out, err = flclient(
            "--client-id", 3, "--server-port", server.port, "--data-dir", fldata, "--reconnect", "20"
        )
    assert code == 0
    assert len(server.hellos) == 3
    assert server.hellos[0] == server.hellos[-1]
    assert err.count("trying again in") == 3
    assert "client 3 is still connected; trying again" in err
    assert out.endswith("the run is over; models trained: 4\n")


def test_reconnect_gives_up_when_its_seconds_are_over(flclient, fldata):
    with PlainServer(lambda server: None) as server:
        free_port = server.port
    code, _, err = flclient("--client-id", 3, "--server-port", free_port, "--data-dir", fldata, "--reconnect", "0.5")
    assert code == 1
    pauses = [float(pause) for pause in re.findall(r"trying again in (\d\.\d) s", err)]
    assert len(pauses) >= 2
    last = f"flclient: cannot connect to localhost:{free_port}: Connection refused; the 0.5 s of --reconnect are over: "
    assert err.splitlines()[-1].startswith(last)
    assert err.endswith("run the same command once the server is up, or with --reconnect 600\n")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("forker")
def test_a_signal_ends_it_cleanly(fldata, stop):
    waiting, over = threading.Event(), threading.Event()

    def script(server):
        connection = server.admit()
        waiting.set()
        assert connection.recv(1) == b"", "end of file, no reset"
        over.set()

    with PlainServer(script) as server:
        arguments = ["--client-id", "3", "--server-port", str(server.port), "--data-dir", str(fldata)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        with warm.start(["-m", "flclient", *arguments], cwd=ROOT, env=env, **streams) as process:
            assert waiting.wait(PATIENCE)
            assert process.stdout.readline().startswith("client 3: registered")
            process.send_signal(stop)
            err = process.stderr.read()
        assert over.wait(PATIENCE)
    assert process.returncode == 3
    assert err == "flclient: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--client-id is required"),
        (["--client-id", ""], "--client-id is required"),
        (["--client-id", "1", "--server-port", "0"], "--server-port"),
        (["--client-id", "1", "--epochs", "none"], "--epochs"),
        (["--client-id", "1", "--dataset", "imagenet"], "--dataset"),
        (["--client-id", "1", "--data-dir", "/no/such"], "cannot read /no/such/train/mnist_train_client1.json"),
        (["--client-id", "host-a", "--dataset", "digits"], "by --part or else --client-id, is none of the parts 1"),
        (["--client-id", "1", "--dataset", "digits", "--partition", "odd"], "is neither iid nor dirichlet:A"),
        (["--client-id", "1", "--dataset", "digits", "--model", "no_such:Net"], "cannot import no_such"),
        (["--client-id", "1", "--use-cuda", "maybe"], "is neither True nor False"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flclient, arguments, reason):
    code, out, err = flclient(*arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1


def test_a_variable_that_is_no_setting_is_said(flclient, monkeypatch):
    monkeypatch.setenv("FLCLIENT_EPOCH", "3")
    code, _, err = flclient("--client-id", "")
    assert code == 2
    assert err.splitlines() == [
        "flclient: FLCLIENT_EPOCH is no setting, and is ignored; did you mean 'FLCLIENT_EPOCHS'?",
        "flclient: --client-id is required",
    ]


NORMED = """
from torch import nn

def normed():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10))
"""


def test_what_cannot_be_trained_is_told_before_anything_is_sent(flclient, fldata, tmp_path, monkeypatch):
    (tmp_path / "normed_net.py").write_text(NORMED)
    monkeypatch.syspath_prepend(tmp_path)
    with PlainServer(lambda server: None) as server:
        nobody = server.port
    where = ("--client-id", 3, "--server-port", nobody, "--data-dir", fldata, "--model", "normed_net:normed")
    code, out, err = flclient(*where, "--batch-size", 1)
    assert (code, out) == (2, "")
    assert err.startswith("flclient: the model cannot be trained on 1 sample at a time: ValueError: Expected more than")
    assert err.endswith("; give --batch-size 2 or more\n")
    code, _, err = flclient(*where, "--batch-size", 2)
    assert (code, err) == (1, f"flclient: cannot connect to localhost:{nobody}: Connection refused\n")


def test_explicit_cuda_without_cuda_is_one_line_and_exit_code_2(flclient, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = flclient("--client-id", "1", "--dataset", "digits", "--use-cuda")
    assert code == 2
    assert "no CUDA" in err


def test_a_text_id_takes_the_part_it_is_given(flclient):
    with PlainServer(three_rounds) as server:
        code, _, _ = flclient(
            *("--client-id", "host-a", "--part", 2, "--num-clients", 4),
            *("--dataset", "digits", "--server-port", server.port, "--batch-size", 64),
        )
    assert code == 0
    assert server.hellos[0]["id"] == "host-a"
    assert server.hellos[0]["data_size"] in (359, 360)


def test_ids_are_integers_where_they_are_written_as_such():
    assert [wire_id(text) for text in ("3", "03", "0", "-3", "3.0", "a", "٣", "9" * 30)] == [
        *(3, "03", 0, "-3", "3.0", "a", "٣", "9" * 30),
    ]


def test_printed_settings_are_read_back_and_torch_is_not_imported(tmp_path):
    environment = os.environ | {"FLCLIENT_EPOCHS": "3", "FLCLIENT_HOST": ""}
    arguments = ["--client-id", "3", "--use-cuda=", "--batch-size", "16", "--print-config"]
    code = "import sys; from flclient.__main__ import main; main(); sys.exit('torch' in sys.modules)"

    def printed(*extra):
        command = [sys.executable, "-c", code, *extra]
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout

    first = printed(*arguments)
    (tmp_path / "c.toml").write_text(first)
    assert printed("--config", str(tmp_path / "c.toml"), "--print-config") == first
    for line in ('client-id = "3"', 'host = "localhost"', "epochs = 3", "use-cuda = false", "batch-size = 16"):
        assert line in first.splitlines()


def test_the_table_offers_what_data_sets_there_are():
    table = {setting.name: setting for setting in CLIENT_SETTINGS}
    assert table["dataset"].choices == DATASETS
    assert defaults(CLIENT_SETTINGS)["model"] == DEFAULT_MODEL
