"""A round's model as a file."""

import hashlib
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Run, lines, refused, spoil
from tests.recorded_run import RUN, weights


@pytest.mark.parametrize(("which", "round"), [(None, 3), ("last", 3), ("best", 2), ("0", 0)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_rounds_model_is_exported(
    flserver: Run, db: Path, tmp_path: Path, which: str | None, round: int, suffix: str
) -> None:
    out = tmp_path / f"model{suffix}"
    asked = () if which is None else ("--round", which)
    record, file = lines(flserver("--db", db, "export-model", "night", *asked, "--out", out))
    assert re.fullmatch(rf"round {round} of run night, on record as sha256:[0-9a-f]{{64}}", record)
    assert file == f"{out} is sha256:{hashlib.sha256(out.read_bytes()).hexdigest()}"
    model = torch.load(out, weights_only=True) if suffix == ".pt" else load_file(out)
    assert {name: tensor.tolist() for name, tensor in model.items()} == {
        name: tensor.tolist() for name, tensor in weights(round).items()
    }, "the strategy's own tensors are no part of the model"


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
