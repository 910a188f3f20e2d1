"""What the operator got wrong is one clear line and exit code 2, and leaves no trace; a check of it says the same."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from flserver.cli.main import run_cli
from flserver.errors import UsageError
from flserver.process.basis import look_up
from flserver.process.prepare import prepare
from flserver.process.which_run import Plan, plan_run
from flserver.settings import server_settings
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests import warm
from tests.old_database import old_database
from tests.patience import PATIENCE

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) ")

OWN_CODE = """
from torch import nn

number = 3

def raises():
    raise RuntimeError("no such\\nlayer")

def gives_a_number():
    return 7

def local():
    class Local(nn.Linear):
        pass
    return Local(2, 2)

def holds_a_function():
    model = nn.Linear(2, 2)
    model.activation = lambda x: x
    return model

def refuses_to_be_pickled():
    return Refusing(2, 2)

class Refusing(nn.Linear):
    def __reduce__(self):
        raise RuntimeError("keep me here")

class NotAStrategy:
    pass

class NeedsArguments:
    def __init__(self, rate):
        self.rate = rate
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an operator's own files, good and bad."""
    (tmp_path / "lab.py").write_text(OWN_CODE)
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "notes.txt").write_text("nothing that a database or a setting could be read from\n" * 40)
    (tmp_path / "unknown.toml").write_text("no-such-setting = 3\n")
    (tmp_path / "wrong.toml").write_text('num-rounds = "three"\n')
    (tmp_path / "folder").mkdir()
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    save_file({"fc1.weight": torch.zeros(10, 784)}, tmp_path / "half.safetensors")
    save_file({"fc1.weight": torch.zeros(10, 5), "fc1.bias": torch.zeros(10)}, tmp_path / "other.safetensors")
    for name, samples in (("short", [[0.5] * 5]), ("words", [["a"] * 784])):
        file = tmp_path / name / "test" / "mnist_test_client1.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"user_data": {"0": {"x": samples, "y": [1]}}}))
    return tmp_path


def flserver(place: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """What the program says; ``more`` is in its environment, a path in it before all that is there."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLSERVER_", "CUDA_"))} | more
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["-m", "flserver", "--server-port", "0", "--metrics-port", "0", *arguments]
    if "PYTHONPATH" not in more:
        return warm.run(command, cwd=place, env=environment)
    cold = [sys.executable, *command]
    return subprocess.run(cold, cwd=place, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def checked(place: Path, *arguments: str) -> tuple[int, list[str]]:
    """The exit code of ``flserver check`` with these options, and what cannot be done; in this process, to be quick."""
    sys.modules.pop("neural_net_helper", None)  # the one that an earlier model has left
    said, path, environment = io.StringIO(), [*sys.path], dict(os.environ)
    with (
        contextlib.chdir(place),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
        mock.patch.object(sys, "path", path),
        mock.patch.dict(
            os.environ, {k: v for k, v in environment.items() if not k.startswith("FLSERVER_")}, clear=True
        ),
        mock.patch("torch.cuda.is_available", return_value=False),
    ):
        code = run_cli(["--server-port", "0", "--metrics-port", "0", "check", *arguments])
    return code, said.getvalue().splitlines()


def files(place: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(place)): p.read_bytes() if p.is_file() else None for p in place.rglob("*")}


def refused(place: Path, arguments: tuple[str, ...], reason: str, **more: str) -> None:
    """Runs it: exit code 2, beside log lines one line with the reason, and the folder as it was. So does a check."""
    before = files(place)
    done = flserver(place, *arguments, **more)
    told = [line for line in done.stderr.splitlines() if not LOG_LINE.match(line)]
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(told) == 1, done.stderr
    assert told[0].startswith("flserver: ")
    assert reason in told[0]
    assert files(place) == before
    code, problems = checked(place, *arguments)
    assert code == 2
    assert [line for line in problems if line.startswith("flserver: ") and reason in line], problems
    assert files(place) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--time-to-wait -1", "--time-to-wait"),
        ("--time-to-wait nan", "--time-to-wait"),
        ("--num-rounds 0", "--num-rounds"),
        ("--num-rounds 1.5", "--num-rounds"),
        ("--min-updates 0", "--min-updates"),
        ("--min-clients 0", "--min-clients"),
        ("--server-port 65536", "--server-port"),
        ("--join-window open", "--join-window"),
        ("--seed -1", "--seed"),
        ("--use-cuda banana", "'banana' is neither True nor False"),
        ("--config unknown.toml", "there is no setting 'no-such-setting'"),
        ("--config wrong.toml", "num-rounds is a str"),
        ("--config none.toml", "cannot read --config none.toml"),
        ("--config notes.txt", "is not TOML"),
        ("--no-such-option", "--no-such-option"),
        ("start", "start"),
        ("--host no-such-host.invalid", "--host no-such-host.invalid does not resolve: "),
        ("--host no-such-host.invalid --insecure", "--host no-such-host.invalid does not resolve: "),
        ("--host 0.0.0.0 --insecure", "Say how many clients it begins with, as in --min-clients 3, or admit none but"),
        ("--go-on-at 2 --min-updates 3", "--go-on-at 2 is less than --min-updates 3"),
        ("--go-on-at 80%", "--go-on-at 80%: neither a number of updates"),
        ("--grace 5", "--grace 5 needs --go-on-at"),
        ("--min-clients 9 --max-connections 16", "--min-clients 9: --max-connections 16 has places for half as many"),
        ("--host [::1]:50052", "--host [::1]:50052 does not resolve: "),
        ("--host 203.0.113.7", "--host 203.0.113.7"),
    ],
)
def test_a_setting_that_cannot_be(place: Path, arguments: str, reason: str) -> None:
    refused(place, tuple(arguments.split()), reason)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--db folder", "folder is a directory"),
        ("--db none/runs.sqlite", "none/runs.sqlite"),
        ("--db notes.txt", "notes.txt"),
        ("--db /proc/runs.sqlite", "/proc/runs.sqlite"),
        ("--checkpoint-dir notes.txt", "--checkpoint-dir: cannot make notes.txt"),
    ],
)
def test_a_place_where_nothing_can_be_kept(place: Path, arguments: str, reason: str) -> None:
    refused(place, tuple(arguments.split()), reason)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--run-name 123", "all digits"),
        ("--run-name a:b", "holds no ':'"),
        ("--model nowhere:Net", "cannot import nowhere"),
        ("--model broken:Net", "cannot import broken: ModuleNotFoundError"),
        ("--model lab:Nothing", "lab has no Nothing"),
        ("--model lab", "is not of the form package.module:name"),
        ("--model lab:raises", "failed: RuntimeError: no such layer"),
        ("--model lab:gives_a_number", "gave a int, not a torch.nn.Module"),
        ("--model lab:number", "not callable"),
        ("--model lab:local", "--model lab:local cannot be pickled"),
        ("--model lab:holds_a_function", "--model lab:holds_a_function cannot be pickled"),
        ("--model lab:refuses_to_be_pickled", "the model cannot be copied: RuntimeError: keep me here"),
        ("--model torchvision:resnet0", "no classification model 'resnet0'"),
        ("--model torchvision:resnet81", "did you mean 'resnet18'?"),
        ("--model lab:gives_number", "lab has no gives_number; did you mean 'gives_a_number'?"),
        ("--strategy nope", "--strategy"),
        ("--strategy nope:Median", "cannot import nope"),
        ("--strategy lab:NotAStrategy", "is not a flserver.aggregation.Strategy"),
        ("--strategy lab:NeedsArguments", "missing 1 required positional argument"),
        ("--evaluate nope:f", "cannot import nope"),
        ("--evaluate lab:number", "not a function"),
        ("--eval-data imagenet", "imagenet"),
        ("--eval-data fldata", "FLdata"),
        ("--eval-data fldata --data-dir folder", "folder"),
        ("--eval-data fldata --data-dir short", "short"),
        ("--eval-data fldata --data-dir words", "words"),
        ("--eval-data digits --model lab:Refusing", "lab:Refusing"),
        ("--initial-weights missing.safetensors", "missing.safetensors"),
        ("--initial-weights notes.txt", "notes.txt"),
        ("--initial-weights half.safetensors", "half.safetensors lacks fc1.bias"),
        ("--initial-weights other.safetensors", "fc1.weight has shape (10, 5) where (10, 784) is needed"),
        ("--initial-weights night", "has no run 'night'"),
        ("--initial-weights night:3", "has no run 'night'"),
        ("--use-cuda True", "no CUDA device"),
        ("--use-cuda", "no CUDA device"),
    ],
)
def test_what_a_run_cannot_be_made_of(place: Path, arguments: str, reason: str) -> None:
    refused(place, tuple(arguments.split()), reason)


@pytest.mark.parametrize("resume", [(), ("--resume", "--run-name", "night")], ids=["new", "resume"])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--eval-data fasion-mnist", "there is no such data set; choose from fldata, digits, mnist"),
        ("--eval-data fasion-mnist", "did you mean 'fashion-mnist'?"),
        ("--eval-data MNIST", "did you mean 'mnist'?"),
        ("--strategy FedAvg", "did you mean 'fedavg'?"),
        ("--strategy labb:Median", "there is no module labb"),
        ("--strategy labb:Median", "did you mean 'lab'?"),
        ("--model torchvison:resnet18", "did you mean 'torchvision'?"),
        ("--model lba.models:Net", "did you mean 'lab'?"),
        ("--model lab.raises", "did you mean 'lab:raises'?"),
        ("--model neural_net_helpr:NeuralNet", "did you mean 'neural_net_helper'?"),
        ("--model neural_net_helper:NeuralNetwork", "built in is 'neural_net_helper:NeuralNet'"),
        ("--evaluate lba:f", "did you mean 'lab'?"),
        ("--initial-weights missing.safetensors", "--initial-weights missing.safetensors: there is no such file"),
        ("--host localhost.invalid", "--host localhost.invalid does not resolve: "),
        ("--host localhost.invalid", "did you mean 'localhost'?"),
        ("--metrics-port 1 --metrics-host 203.0.113.7", "--metrics-host 203.0.113.7 --metrics-port 1"),
    ],
)
def test_a_slip_of_the_pen_is_said_at_once_without_torch(
    place: Path, arguments: str, reason: str, resume: tuple[str, ...]
) -> None:
    path = os.pathsep.join(filter(None, (str(place / "without"), os.environ.get("PYTHONPATH"))))
    refused(place, (*arguments.split(), *resume), reason, PYTHONPATH=path)


def test_without_torch_the_trap_would_have_been_seen(place: Path) -> None:
    path = os.pathsep.join(filter(None, (str(place / "without"), os.environ.get("PYTHONPATH"))))
    assert "torch was imported" in flserver(place, PYTHONPATH=path).stderr
    assert not (place / "runs.sqlite").exists()


def test_an_old_database_is_upgraded_only_by_a_start_that_succeeds(place: Path) -> None:
    old_database(place / "old.sqlite")
    refused(place, ("--db", "old.sqlite", "--model", "lab:raises"), "failed: RuntimeError: no such layer")


def test_a_port_that_is_in_use(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        reason = f"--host 127.0.0.1 --server-port {port}: Address already in use"
        refused(place, ("--server-port", port), reason)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_variable_that_is_no_setting_has_its_line_in_the_log(place: Path, form: str) -> None:
    done = flserver(place, "--host", "203.0.113.7", "--log-format", form, FLSERVER_NUM_ROUND="3")
    assert done.returncode == 2
    said, _ = done.stderr.splitlines()
    line = "FLSERVER_NUM_ROUND is no setting, and is ignored; did you mean 'FLSERVER_NUM_ROUNDS'?"
    if form == "json":
        assert (json.loads(said)["level"], json.loads(said)["message"]) == ("warning", line)
    else:
        assert said.endswith(f"WARNING {line}")


def test_a_metrics_port_that_is_in_use(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused(place, ("--metrics-port", port), port)


@pytest.mark.parametrize("keep", [0, 2])
def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    model = 4 * (784 * 10 + 10)
    monkeypatch.setattr("flserver.process.room.free_space", lambda directory: 20 * model)
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    settings = server_settings({"db": str(db), "num_rounds": 100, "keep_checkpoints": keep})
    plan = plan_run(Reader(db), settings, {})
    assert isinstance(plan, Plan)
    said: list[str] = []
    if keep:
        prepare(plan, look_up(plan, Reader(db)), said.append)
    else:
        with pytest.raises(UsageError, match=r"100 rounds need about .* free\. Free some") as caught:
            prepare(plan, look_up(plan, Reader(db)), said.append)
        assert "\n" not in str(caught.value)
    assert not settings.store.checkpoint_dir.exists()
    assert any(line.startswith("checkpoints: about ") for line in said)


def test_too_little_disk_for_updates_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.process.room.free_space", lambda directory: 2_000_000)
    db = tmp_path / "runs.sqlite"
    ensure_head(db)

    def said_of(**more: object) -> list[str]:
        settings = server_settings({"db": str(db), "num_rounds": 30, "min_clients": 3} | more)
        plan, said = plan_run(Reader(db), settings, {}), list[str]()
        assert isinstance(plan, Plan)
        prepare(plan, look_up(plan, Reader(db)), said.append)
        return said

    said_of()
    kept = said_of(keep_updates=True, keep_updates_rounds=5)
    assert any("1.1 MB for 30 rounds to come, 644.7 kB for the updates of 3 clients, " in line for line in kept), kept
    with pytest.raises(UsageError, match=r"with the updates, but .* or --keep-updates-rounds"):
        said_of(keep_updates=True)


# --- the trainer -----------------------------------------------------------------------------------------------------


@pytest.fixture
def flclient(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs the trainer in this process; it must end with exit code 2 and one line, which is returned."""
    from flclient.cli import flclient as command
    from flserver.settings.options import run

    for name in [name for name in os.environ if name.startswith("FLCLIENT_")]:
        monkeypatch.delenv(name)

    def call(*arguments: str) -> str:
        code = run(command, "FLCLIENT", ["--client-id", "1", *arguments])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1
        return str(err)

    return call


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--config unknown.toml", "there is no setting 'no-such-setting'"),
        ("--config none.toml", "cannot read --config none.toml"),
        ("--epochs 0", "--epochs"),
        ("--batch-size 0", "--batch-size"),
        ("--learning-rate nan", "--learning-rate"),
        ("--learning-rate -1", "--learning-rate"),
        ("--num-clients 0", "--num-clients"),
        ("--server-port 65536", "--server-port"),
        ("--reconnect -1", "--reconnect"),
        ("--data-dir short-train", "short-train"),
        ("--data-dir words-train", "words-train"),
        ("--data-dir notes.txt", "notes.txt"),
        ("--dataset digits --model lab:raises", "failed: RuntimeError: no such layer"),
        ("--dataset digits --model lab:gives_a_number", "not a torch.nn.Module"),
        ("--dataset digits --num-clients 1 --client-id 2", "--num-clients"),
        ("--dataset digits --partition dirichlet:0", "dirichlet"),
        ("--dataset digits --partition dirichlet:nan", "dirichlet"),
    ],
)
def test_the_trainers_bad_input(
    place: Path, flclient: Callable[..., str], arguments: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("short", "words"):
        source = (place / name / "test" / "mnist_test_client1.json").read_bytes()
        for split in ("train", "test"):
            file = place / f"{name}-train" / split / f"mnist_{split}_client1.json"
            file.parent.mkdir(parents=True)
            file.write_bytes(source)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert reason in flclient(*arguments.split())
