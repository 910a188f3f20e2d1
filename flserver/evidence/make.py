"""A bundle is made: the events, what follows from them, what is said beyond them, and a manifest, in a zip.

The same record, head and options give the same bytes, but for a signature of the model.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO

from flserver.audit.model_card import checked_licence
from flserver.errors import HeadError, UsageError
from flserver.evidence import verify
from flserver.evidence.anchor import Anchor, anchor
from flserver.evidence.described import bom, signature
from flserver.evidence.lines import written
from flserver.evidence.zipped import fill, sha256_of
from flserver.files import new_file
from flserver.heads.model_keys import ModelKey
from flserver.models.digests import check_file, located
from flserver.models.stored import opened
from flserver.settings.folders import Folder
from flserver.settings.places import Place
from flserver.settings.recorded import checkpoints_of
from flserver.store.reader import Row
from flserver.store.schema import check
from flserver.store.tree_reader import TreeReader
from flserver.text import printable

VERIFIER = Path(verify.__file__)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What evidence is asked for: of all rounds of ``run``, or of one ``round``. ``head`` is the text of one that it is
    to be about; ``personal`` data are all payloads, ``model`` is the checkpoint itself."""

    run: str
    round: int | None = None
    head: str | None = None
    licence: str | None = None
    model_key: ModelKey | None = None
    model: bool = False
    personal: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError where the licence is no SPDX expression."""
        checked_licence(self.licence)

    @classmethod
    def parse(cls, what: str, **options: Any) -> "Asked":
        """Of RUN or RUN:ROUND."""
        run, colon, number = what.rpartition(":")
        named = colon and number.isdecimal()
        return cls(run=run if named else what, round=int(number) if named else None, **options)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A bundle: its SHA-256 and that of the ``verify.py`` in it (in hex), the head that it is about, and how many
    events of the run are in it, and rounds."""

    digest: str
    verifier: str
    anchor: Anchor
    events: int
    rounds: int


def make(db: Place, out: Path, asked: Asked, checkpoint_dir: Folder | None = None) -> Made:
    """Write the bundle to the new file ``out``, for this user and group, and hold it against itself.

    Raises UsageError where there is no such run or round, the database is of a newer flserver, or ``out`` cannot be
    made; CheckpointError where the model is
    asked for and is not the one on record; Rewritten and HeadError where the record is not that of the head.
    """
    check(db)
    reader = TreeReader(db)
    run = reader.run(asked.run)
    wanted = reader.committed_round(run["run_id"], asked.round)
    found = anchor(reader, asked.head, 0 if asked.head and asked.round is None else int(wanted["event_seq"]))
    if int(reader.committed_rounds(run["run_id"])[0]["event_seq"]) > found.checkpoint.size:
        raise HeadError(f"the head is of {found.checkpoint.size} events, before the first round of run {run['name']}")
    with new_file(out) as zipped, tempfile.TemporaryFile(dir=out.parent) as lines, ExitStack() as opened:
        facts = _write_events(reader, run["run_id"], asked, found, lines)
        made = reader.committed_round(run["run_id"], max(facts["RoundCommitted"])[0])
        files = verify.derive(facts, run["run_id"], str(found))
        files |= {
            "head": found.text.encode(),
            "bom.json": bom(run, made, asked.licence),
            "verify.py": VERIFIER.read_bytes(),
        }
        streams: dict[str, BinaryIO] = {verify.EVENTS: lines}
        if asked.model or asked.model_key is not None:
            model = opened.enter_context(_checkpoint(run, made, checkpoint_dir, db))
            if asked.model:
                streams[verify.MODEL] = model
        if asked.model_key is not None:
            files[verify.SIGNATURE] = signature(made["model_digest"].removeprefix("sha256:"), asked.model_key)
        fill(zipped, files, streams, {"format": 1, "run_id": run["run_id"]})
        with _doubts():
            verify.check(verify.Bundle(zipped))
        zipped.seek(0)
        digest = sha256_of(zipped)
    return Made(
        digest=digest,
        verifier=hashlib.sha256(files["verify.py"]).hexdigest(),
        anchor=found,
        events=facts["events"],
        rounds=len(facts["RoundCommitted"]),
    )


def _write_events(reader: TreeReader, run_id: str, asked: Asked, found: Anchor, to: IO[bytes]) -> dict[str, Any]:
    """Write the lines of the events, and say what they say."""
    size, root = found.checkpoint.size, found.checkpoint.root
    with reader.nodes() as nodes:
        for line in written(reader.events_of_run(run_id, size, asked.round), nodes, size, asked.personal):
            to.write(line)
    to.seek(0)
    with _doubts():
        return verify.walk(iter(to), run_id, size, root)


def _checkpoint(run: Row, made: Row, checkpoint_dir: Folder | None, db: Place) -> BinaryIO:
    """The checkpoint of a round, which was held against its digest."""
    if made["checkpoint_deleted_at"] is not None:
        raise UsageError(f"the checkpoint of round {made['round']} was deleted at {made['checkpoint_deleted_at']}")
    path = located(checkpoints_of(run, checkpoint_dir, db), made["checkpoint"])
    check_file(path, made["model_digest"])
    return BufferedReader(opened(path))


@contextmanager
def _doubts() -> Iterator[None]:
    """Raises HeadError where ``verify.py`` would not have what was written."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        said = printable(str(error))
        raise HeadError(f"no bundle can be made: {said}. flserver verify says whether the record holds") from error
