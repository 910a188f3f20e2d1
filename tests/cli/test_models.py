"""A round's model as a file."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from flserver.audit.model_card import model_card
from flserver.store.reader import Reader
from tests.cli.conftest import Run, lines, refused, spoil
from tests.old_record import old_record
from tests.recorded_run import PLAIN, RUN, weights


@pytest.mark.parametrize(("which", "round"), [(None, 3), ("last", 3), ("best", 2), ("0", 0)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_rounds_model_is_exported(
    flserver: Run, db: Path, tmp_path: Path, which: str | None, round: int, suffix: str
) -> None:
    out = tmp_path / f"model{suffix}"
    asked = () if which is None else ("--round", which)
    record, file, card = lines(flserver("--db", db, "export-model", "night", *asked, "--out", out))
    assert re.fullmatch(rf"round {round} of run night, on record as sha256:[0-9a-f]{{64}}", record)
    assert file == f"{out} is sha256:{hashlib.sha256(out.read_bytes()).hexdigest()}"
    assert card == f"{tmp_path / 'model.json'} says what it is; licence: not stated"
    model = torch.load(out, weights_only=True) if suffix == ".pt" else load_file(out)
    assert {name: tensor.tolist() for name, tensor in model.items()} == {
        name: tensor.tolist() for name, tensor in weights(round).items()
    }, "the strategy's own tensors are no part of the model"


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_an_exported_model_is_the_checkpoints_bytes_and_its_card_says_where_it_comes_from(
    flserver: Run, db: Path, tmp_path: Path
) -> None:
    out, card = tmp_path / "m.safetensors", tmp_path / "m.json"
    for _ in range(2):  # the second replaces the first
        lines(flserver("--db", db, "export-model", "plain", "--out", out, "--licence", "CC-BY-4.0"))
    columns = "model_digest, loss, ended_at, arithmetic"
    ((digest, loss, at, arithmetic),) = Reader(db).query(f"SELECT {columns} FROM v1_rounds WHERE run_id = '{PLAIN}'")[1]
    assert sha256(out) == digest, "what sha256sum shows is on record"
    told = json.loads(card.read_text())
    assert (told["run_id"], told["run"], told["round"], told["model_digest"]) == (PLAIN, "plain", 0, digest)
    assert (told["file"], told["file_digest"], told["licence"]) == ("m.safetensors", digest, "CC-BY-4.0")
    assert (told["loss"], told["committed_at"], told["arithmetic"]) == (loss, at, arithmetic)
    assert (told["parameters"], told["made_with"]["python_version"]) == (8, "3.11")
    assert {"clients", "data_size", "model", "seed", "strategy", "parent"} <= set(told)
    assert sorted(os.listdir(tmp_path)) == ["here", "m.json", "m.safetensors"]


def test_what_the_card_says_can_be_put_into_the_file(flserver: Run, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    said = lines(flserver("--db", db, "export-model", "plain", "--out", out, "--embed"))
    told = json.loads(out.with_suffix(".json").read_text())
    assert any("another digest than the record's" in line for line in said)
    assert told["file_digest"] == sha256(out) != told["model_digest"]
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert (metadata["flserver.run_id"], metadata["flserver.model_digest"]) == (PLAIN, told["model_digest"])
    assert json.loads(metadata["flserver.made_with"]) == told["made_with"]
    assert {name: tensor.tolist() for name, tensor in load_file(out).items()} == {
        name: tensor.tolist() for name, tensor in weights(0).items()
    }


def test_a_file_that_is_no_card_is_not_written_over(flserver: Run, db: Path, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"mine": 1}')
    answer = flserver("--db", db, "export-model", "plain", "--out", tmp_path / "m.safetensors")
    refused(answer, "m.json is there and none of flserver's")
    assert (tmp_path / "m.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "m.safetensors").exists()


def test_the_card_of_another_file_is_not_written_over(flserver: Run, db: Path, tmp_path: Path) -> None:
    lines(flserver("--db", db, "export-model", "plain", "--out", tmp_path / "m.safetensors"))
    before = (tmp_path / "m.json").read_text()
    answer = flserver("--db", db, "export-model", "night", "--out", tmp_path / "m.pt")
    refused(answer, "m.json says what m.safetensors is: another name, or move both away")
    assert (tmp_path / "m.json").read_text() == before
    assert not (tmp_path / "m.pt").exists()
    (tmp_path / "m.safetensors").unlink()
    lines(flserver("--db", db, "export-model", "night", "--out", tmp_path / "m.pt"))
    assert json.loads((tmp_path / "m.json").read_text())["file"] == "m.pt", "of a file that is gone it says nothing"


@pytest.mark.parametrize("revision", ["0001", "0007", "0013"])
def test_the_card_of_a_model_of_an_older_database_has_what_that_has(tmp_path: Path, revision: str) -> None:
    old_record(tmp_path / "old.sqlite", revision)
    reader = Reader(tmp_path / "old.sqlite")
    run = next(run for run in reader.runs() if reader.committed_rounds(run["run_id"]))
    card = model_card(reader, run, reader.committed_round(run["run_id"]), None)
    made_with = card["made_with"]
    assert made_with["torch_version"]
    assert [made_with[name] for name in ("code", "libraries", "cpu")] == [None] * 3


def test_the_line_about_moved_checkpoints_names_the_option_that_finds_them(
    flserver: Run, db: Path, tmp_path: Path
) -> None:
    moved = db.with_name("runs.sqlite.checkpoints").rename(tmp_path / "moved")
    out = tmp_path / "m.pt"
    hint = "if its folder was moved, --checkpoint-dir says where to"
    refused(flserver("--db", db, "export-model", "night", "--out", out), f"No such file or directory; {hint}", code=1)
    lines(flserver("--db", db, "export-model", "night", "--out", out, "--checkpoint-dir", moved))
    code, _, err = flserver("--db", db, "verify")
    assert (code, err.count(hint)) == (2, 4), "they cannot be told: they may be whole, elsewhere"
    lines(flserver("--db", db, "verify", "--checkpoint-dir", moved))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["night", "--round", "1", "--out", "m.pt"], "round 1 was pruned at 20"),
        (["night", "--round", "7", "--out", "m.pt"], "no committed round 7"),
        (["night", "--round", "-1", "--out", "m.pt"], "a number, best or last"),
        (["night", "--round", "newest", "--out", "m.pt"], "a number, best or last"),
        (["plain", "--round", "best", "--out", "m.pt"], "there is no best one"),
        (["day", "--out", "m.pt"], "has no run 'day'"),
        (["night", "--out", "m.onnx"], "ends in .safetensors or .pt"),
        (["night", "--out", "m"], "ends in .safetensors or .pt"),
        (["night"], "--out"),
        (["night", "--out", "m.pt", "--embed"], "--embed is for .safetensors"),
        (["night", "--out", "m.pt", "--licence", "as you like"], "no SPDX expression"),
        (["night", "--out", "no/such/folder/m.pt"], "cannot write"),
        (["night", "--out", "no/such/folder/m.safetensors"], "cannot write"),
    ],
)
def test_an_export_that_cannot_be(
    flserver: Run, db: Path, arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(flserver("--db", db, "export-model", *arguments), reason)
    assert os.listdir() == ["here"], "nothing was written"


def test_a_changed_checkpoint_is_not_exported(flserver: Run, db: Path, tmp_path: Path) -> None:
    spoil(db, RUN, 3)
    out = tmp_path / "m.pt"
    refused(flserver("--db", db, "export-model", "night", "--out", out), "does not match its digest", code=1)
    assert not out.exists()
