"""Models out of the record."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from flserver.audit.model_card import as_metadata, model_card, place_of
from flserver.audit.rounds_by_name import committed_round
from flserver.errors import UsageError
from flserver.files import sync_folder
from flserver.models.checkpoint_format import read, serialize
from flserver.models.digests import located, sha256_of_file
from flserver.models.state import State
from flserver.models.stored import copy
from flserver.settings.folders import Folder
from flserver.settings.places import Place
from flserver.settings.recorded import checkpoints_of
from flserver.store.reader import Reader
from flserver.text import json_text


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model in ``file`` with the ``file_digest``, what is ``beside`` it, and where it comes from: ``round``
    of the run ``name``, on record with the ``model_digest``. ``embedded``: the file says so itself."""

    run_id: str
    name: str
    round: int
    model_digest: str
    file: Path
    file_digest: str
    beside: Path
    licence: str
    embedded: bool

    @property
    def lines(self) -> Iterator[str]:
        """The same for people."""
        yield f"round {self.round} of run {self.name}, on record as {self.model_digest}"
        yield f"{self.file} is {self.file_digest}"
        if self.embedded:
            where = f"{self.beside} and its metadata say where it comes from"
            yield f"{self.file} has another digest than the record's: {where}"
        yield f"{self.beside} says what it is; licence: {self.licence}"


def export(
    reader: Reader,
    ref: str | None,
    which: str,
    out: Path,
    checkpoint_dir: Folder | None,
    db: Place,
    *,
    licence: str | None = None,
    embed: bool = False,
) -> Exported:
    """Write the model of round ``which`` (a number, ``best`` or ``last``) of run ``ref`` to ``out``, and what the
    record says of it beside that, as JSON.

    ``.pt`` holds a ``state_dict``, ``.safetensors`` the same tensors: the checkpoint's own bytes, unless ``embed`` puts
    what the record says into them. Raises UsageError or CheckpointError.
    """
    check_name(out)
    if embed and out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: --embed is for .safetensors, whose metadata is text")
    run = reader.run(ref)
    committed = committed_round(reader, run, which)
    if committed["checkpoint_deleted_at"] is not None:
        raise UsageError(
            f"the checkpoint of round {committed['round']} was pruned at {committed['checkpoint_deleted_at']}"
        )
    card, beside = model_card(reader, run, committed, licence), place_of(out)
    checkpoint = located(checkpoints_of(run, checkpoint_dir, db), committed["checkpoint"])
    model, strategy = read(checkpoint, committed["model_digest"])
    # Where it holds the model alone, the checkpoint itself: its digest is the one on record.
    as_it_is = None if strategy or embed else checkpoint
    digest = write_model(model, out, as_it_is, as_metadata(card) if embed else {})
    told = {"file": out.name, "file_digest": digest, "parameters": sum(tensor.numel() for tensor in model.values())}
    text = json_text(card | told, indent=2) + "\n"
    _write(beside, lambda place: place.write_text(text, encoding="utf-8", errors="backslashreplace"))
    return Exported(
        run_id=run["run_id"],
        name=run["name"],
        round=committed["round"],
        model_digest=committed["model_digest"],
        file=out,
        file_digest=digest,
        beside=beside,
        licence=str(card["licence"]),
        embedded=embed,
    )


def check_name(out: Path) -> None:
    """Raises UsageError where the name does not say which kind of file is meant."""
    if out.suffix not in (".safetensors", ".pt"):
        raise UsageError(f"--out {out}: the name ends in .safetensors or .pt")


def write_model(
    model: State, out: Path, as_it_is: Folder | None = None, metadata: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Write a model to ``out``, of which :func:`check_name` thinks well; the digest of the file (``sha256:hex``). A
    safetensors file is a copy of the one that is there already ``as_it_is``, if one is, else it has the ``metadata``
    too. What was there before is whole until it is replaced. Raises UsageError."""
    if out.suffix == ".pt":
        _write(out, lambda place: torch.save(model, place))
    elif as_it_is is None:
        _write(out, lambda place: _write_pieces(place, serialize(model, {}, metadata)))
    else:
        _write(out, lambda place: _write_copy(as_it_is, place))
    return sha256_of_file(out)


def _write_pieces(place: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with place.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def _write_copy(of: Folder, place: Path) -> None:
    with place.open("wb") as file:
        copy(of, file)


def _write(out: Path, write: Callable[[Path], object]) -> None:
    """Have a file written that is ``out`` once it would survive a power loss. Raises UsageError."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with ExitStack() as undo:
            undo.callback(temporary.unlink, missing_ok=True)
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.rename(out)
        sync_folder(out.absolute().parent)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"cannot write {out}: {error}") from error
