"""Rounds computed again, as they were and as they would have been."""

import contextlib
import hashlib
import re
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flserver.aggregation import FedAvg, State
from flserver.models.checkpoint_format import serialize
from flserver.models.digests import sha256_of
from tests.cli.conftest import Run, lines, refused
from tests.kept_run import CLIENTS, RUN, mean, tensors, write_kept

OWN = '''
import torch
from flserver.aggregation import FedAvg, Strategy


class Momentum(FedAvg):
    """Adds half of the step before to each mean."""

    before = None

    def begin(self, global_state):
        super().begin(global_state)
        self.base = global_state

    def finish(self):
        mean = super().finish()
        if self.before is not None:
            mean["w"] = mean["w"] + self.before / 2
        self.before = mean["w"] - self.base["w"]
        return mean

    def state(self):
        return {"before": self.before}

    def load_state(self, state):
        self.before = state.get("before")


class Largest(Strategy):
    """No sum. Whatever it is given is in the order of the model's names, as it was then."""

    needs = "all"

    def begin(self, global_state):
        self.updates = []
        assert list(global_state) == ["w", "d", "h", "n", "flag"]

    def add(self, update, n):
        self.updates.append((n, update))
        assert list(update) == ["w", "d", "h", "n", "flag"]

    def finish(self):
        return {name: tensor.clone() for name, tensor in max(self.updates, key=lambda pair: pair[0])[1].items()}


class Halved(FedAvg):
    """An ``add`` of its own: what ``subtract`` takes is not what was added."""

    def add(self, update, n):
        super().add({name: t / 2 if t.is_floating_point() else t for name, t in update.items()}, n)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_strategies.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def digest(state: State) -> str:
    return sha256_of(serialize(state, {}))


def update_files(db: Path, round: int) -> list[Path]:
    return sorted(db.with_name("runs.sqlite.checkpoints").glob(f"{RUN}/updates/round-{round:06d}/*"))


def path_of(db: Path, round: int, client: str) -> Path:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        query = "SELECT kept FROM updates WHERE run_id = ? AND answers_round = ? AND client_id = ?"
        ((path,),) = connection.execute(query, (RUN, round, client)).fetchall()
    return db.with_name("runs.sqlite.checkpoints") / path


def change(db: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(statement, values)


# --- as it was -------------------------------------------------------------------------------------------------------


def test_rounds_computed_again_are_as_on_record(flserver: Run, db: Path) -> None:
    second, third, summary = lines(flserver("--db", db, "replay", "night"))
    assert re.fullmatch(r"run night round 2: sha256:[0-9a-f]{64}", second)
    assert third.startswith("run night round 3: sha256:")
    assert summary == "all 2 computed again are as on record; the updates of 1 more are not kept"
    (one, alone) = lines(flserver("--db", db, "replay", RUN, "--round", 3))
    assert (one, alone) == (third, "the one computed again is as on record")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("place", [3, 12, -1])
def test_a_changed_byte_of_an_update_is_found_and_whose_it_is(flserver: Run, db: Path, client: str, place: int) -> None:
    path = path_of(db, 2, client)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    code, out, err = flserver("--db", db, "replay", "night")
    assert code == 1
    assert out.startswith("run night round 3: ")
    changed, summary = err.splitlines()
    assert changed.startswith(f"differs: run night round 2: the update of client {client}: ")
    assert summary == "rounds: 1 holds, 1 differs, 0 cannot be computed; the updates of 1 more are not kept"


def test_updates_of_two_clients_that_were_exchanged_are_found(flserver: Run, db: Path) -> None:
    one, other = path_of(db, 2, "1"), path_of(db, 2, "10")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    code, _, err = flserver("--db", db, "replay", "night", "--round", 2)
    assert (code, "client 1:" in err) == (1, True)


def test_a_changed_weight_is_found(flserver: Run, db: Path) -> None:
    change(db, "UPDATE updates SET counted_size = 8 WHERE counted_size = 7 AND answers_round = 3 AND run_id = ?", RUN)
    code, _, err = flserver("--db", db, "replay", "night")
    assert code == 1
    assert "differs: run night round 3: its updates make sha256:" in err


def test_a_changed_checkpoint_is_found(flserver: Run, db: Path) -> None:
    (file,) = db.with_name("runs.sqlite.checkpoints").glob(f"{RUN}/round-000002-*")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    code, out, err = flserver("--db", db, "replay", "night")
    assert (code, out.splitlines()[0][:18]) == (1, "run night round 2:"), "its base is round 1"
    assert "differs: run night round 3: checkpoint" in err


@pytest.mark.parametrize("what", ["update", "base"])
def test_what_is_not_here_is_told_apart_from_what_differs(flserver: Run, db: Path, what: str) -> None:
    (base,) = db.with_name("runs.sqlite.checkpoints").glob(f"{RUN}/round-000001-*")
    (base if what == "base" else path_of(db, 2, "10")).unlink()
    code, _, err = flserver("--db", db, "replay", "night")
    assert code == 2
    assert "cannot be computed: run night round 2: " in err
    assert "is not there" in err
    assert what == "base" or "client 10" in err


def test_a_round_made_with_another_arithmetic_is_not_compared(flserver: Run, db: Path) -> None:
    change(db, "UPDATE rounds SET arithmetic = 'exact-sum-0' WHERE round = 3")
    code, _, err = flserver("--db", db, "replay", "night")
    assert code == 2
    assert "its arithmetic was exact-sum-0, this version has exact-sum-1" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["night", "--round", 1], "its updates are not kept"),
        (["night", "--round", 9], "no committed round 9"),
        (["day"], "has no run 'day'"),
        (["night", "--out", "x.pt"], "--out goes with --without or --strategy"),
        (["night", "--without", "7"], "client 7 has no accepted update in round 3"),
        (["night", "--without", "1", "--round", 1], "its updates are not kept"),
        (["later", "--without", "10"], "client 10 is the only one in round 1"),
        (["night", "--without", "1", "--out", "x.onnx"], "ends in .safetensors or .pt"),
        (["night", "--strategy", "fedavgg"], "did you mean"),
    ],
)
def test_what_cannot_be_computed(flserver: Run, db: Path, arguments: list[object], reason: str) -> None:
    code, out, err = flserver("--db", db, "replay", *arguments)
    assert (code, out) == (2, "")
    assert reason in err


def test_a_run_that_kept_nothing(flserver: Run, db: Path) -> None:
    change(db, "UPDATE updates SET kept = NULL")
    refused(flserver("--db", db, "replay", "night"), "keeps the updates of no round")
    refused(flserver("--db", db, "replay", "night", "--without", "1"), "keeps the updates of no round")


# --- as it would have been -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_taken_out_bit_for_bit(flserver: Run, db: Path, tmp_path: Path, client: str) -> None:
    models = write_kept(tmp_path / "again.sqlite")
    wanted = mean(3, models[2], *(one for one in CLIENTS if one != client))
    out = tmp_path / "without.safetensors"
    what, moved, file, warning = lines(flserver("--db", db, "replay", "night", "--without", client, "--out", out))
    assert what == f"round 3 of run night without client {client}: {digest(wanted)}; on record: {digest(models[3])}"
    assert file == f"{out} is {digest(wanted)}"
    assert hashlib.sha256(out.read_bytes()).hexdigest() == digest(wanted).removeprefix("sha256:")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(out).items())
    assert warning.startswith("later rounds were trained on the round's model as it was")
    pairs = [(wanted[name].double(), models[3][name].double(), models[2][name].double()) for name in ("w", "d", "h")]
    distance = sum(float((one - other).square().sum()) for one, other, _ in pairs) ** 0.5
    size = sum(float(other.square().sum()) for _, other, _ in pairs) ** 0.5
    step = sum(float((other - base).square().sum()) for _, other, base in pairs) ** 0.5
    numbers = re.fullmatch(r"moved by (\S+) \(L2\): (\S+) of the model's norm, (\S+) of the round's step", moved)
    assert numbers is not None
    assert [float(one) for one in numbers.groups()] == pytest.approx([distance, distance / size, distance / step], 1e-5)


def test_of_what_was_changed_nothing_is_taken_out(flserver: Run, db: Path, tmp_path: Path) -> None:
    path = path_of(db, 3, "2")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    out = tmp_path / "out.pt"
    refused(flserver("--db", db, "replay", "night", "--without", "1", "--out", out), "the update of client 2", code=1)
    assert not out.exists()
    change(db, "UPDATE updates SET counted_size = 8 WHERE counted_size = 7 AND run_id = ?", RUN)
    refused(flserver("--db", db, "replay", "night", "--without", "1", "--round", 2), "its updates make", code=1)


@pytest.mark.usefixtures("own")
def test_what_another_strategy_would_have_made(flserver: Run, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "largest.safetensors"
    asked = ("--db", db, "replay", "night", "--strategy", "own_strategies:Largest", "--model", "own_model:make")
    (tmp_path / "own_model.py").write_text(MODEL)
    change(db, "UPDATE runs SET model = 'own_model:make'")
    what, *_ = lines(flserver(*asked, "--round", 2, "--out", out))
    assert what.startswith(f"round 2 of run night by own_strategies:Largest: {digest(tensors(2, '2'))}; on record: ")
    refused(flserver(*asked, "--without", "1"), "own_strategies:Largest is no sum")
    halved = [part if part != "own_strategies:Largest" else "own_strategies:Halved" for part in asked]
    refused(flserver(*halved, "--without", "1"), "own_strategies:Halved is no sum")


MODEL = """
import torch


def make():
    module = torch.nn.Module()
    for name, tensor in {
        "w": torch.zeros(3, 5),
        "d": torch.zeros(4, dtype=torch.float64),
        "h": torch.zeros(5, dtype=torch.float16),
        "n": torch.zeros(3, dtype=torch.int64),
        "flag": torch.zeros(3, dtype=torch.bool),
    }.items():
        module.register_buffer(name, tensor)
    return module
"""


@pytest.mark.usefixtures("own")
def test_a_strategy_that_remembers_is_given_what_it_kept_and_runs_only_where_it_is_named(
    flserver: Run, tmp_path: Path
) -> None:
    import own_strategies  # type: ignore[import-not-found]

    db, spec = tmp_path / "runs.sqlite", "own_strategies:Momentum"
    (tmp_path / "own_model.py").write_text(MODEL)
    models = write_kept(db, strategy=spec, made=own_strategies.Momentum())
    change(db, "UPDATE runs SET model = 'own_model:make' WHERE run_id = ?", RUN)
    refused(flserver("--db", db, "replay", "night"), f"--strategy {spec} lets it run here")
    _, _, err = flserver("--db", db, "replay", "night", "--strategy", spec)
    assert "--model own_model:make lets it run here" in err
    asked = ("--db", db, "replay", "night", "--strategy", spec, "--model", "own_model:make")
    assert lines(flserver(*asked))[-1].startswith("all 2 computed again are as on record")
    again = own_strategies.Momentum()
    for round in (1, 2):
        mean(round, models[round - 1], *CLIENTS, strategy=again)
    wanted = mean(3, models[2], "10", "2", strategy=again)
    out = tmp_path / "without.safetensors"
    lines(flserver(*asked, "--without", "1", "--out", out))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(out).items())


def test_a_sum_says_that_it_is_one() -> None:
    class Quiet(FedAvg):
        def finish(self) -> State:
            return super().finish()

    class Other(FedAvg):
        def add(self, update: State, n: int) -> None:
            super().add(update, n)

    assert (FedAvg().is_sum, Quiet().is_sum, Other().is_sum) == (True, True, False)
