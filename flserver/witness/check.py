"""Files that an operator made for a site: proofs that an event, or a client's own rows, are in the record of a head."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from flserver.errors import HeadError, UsageError
from flserver.heads.keys import opened
from flserver.heads.note import Checkpoint, Note, PublicKey, decoded
from flserver.heads.proofs import INCLUSION, ROWS, Inclusion
from flserver.heads.tree import root_from_inclusion
from flserver.store.chain import Link, payload_digest

MOST_BYTES = 2**20  # of a line


@dataclass(frozen=True)
class Checked:
    """What holds: events by their type, of ``client`` (None: one ``event``, of whomever), under ``head``."""

    client: str | None
    head: Checkpoint
    types: Mapping[str, int]
    event: Link | None = None


def check_file(path: Path, log: PublicKey, head: Note | None) -> Checked:
    """Check a file that ``flserver prove`` made; ``head`` is one that the site has from elsewhere, and the file has to
    be about that one. Raises HeadError where something does not hold, UsageError where the file cannot be read."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            first = file.readline(MOST_BYTES)
            if first.rstrip("\n") == INCLUSION:
                return _check_event(first + file.read(MOST_BYTES), log, head)
            opening = _json(first, 1)
            if opening.get("format") != ROWS:
                raise HeadError("is no file that flserver prove has made")
            client, checkpoint = str(opening.get("client")), _held(Note.parse(str(opening.get("head"))), log, head)
            types: Counter[str] = Counter()
            last = 0
            while line := file.readline(MOST_BYTES):
                link = _check_row(_json(line, sum(types.values()) + 2), client, checkpoint)
                if link.seq <= last:
                    raise HeadError(f"event {link.seq} stands behind event {last}")
                types[link.type], last = types[link.type] + 1, link.seq
            return Checked(client, checkpoint, types)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (HeadError, UnicodeDecodeError) as error:
        raise HeadError(f"{path}: {error}") from error


def _check_event(text: str, log: PublicKey, head: Note | None) -> Checked:
    proof = Inclusion.parse(text)
    checkpoint = _held(proof.head, log, head)
    link = _link(_json(proof.extra.decode("utf-8", "replace"), 2))
    if link.seq != proof.index + 1 or link.canonical() != proof.extra:
        raise HeadError(f"the event is not written as the one with the number {proof.index + 1}")
    _require(link, proof.proof, checkpoint)
    return Checked(None, checkpoint, {link.type: 1}, link)


def _check_row(row: Mapping[str, Any], client: str, checkpoint: Checkpoint) -> Link:
    link, payload, salt, proof = _link(row.get("event")), row.get("payload"), row.get("salt"), row.get("proof")
    if not (isinstance(payload, str) and isinstance(salt, str) and isinstance(proof, list)):
        raise HeadError(f"event {link.seq} has no payload, salt and proof")
    try:
        same = payload_digest(salt, payload) == link.payload_digest
    except ValueError:
        same = False
    if not same:
        raise HeadError(f"event {link.seq}: the payload is not the one on record")
    if _json(payload, link.seq).get("client_id") != client:
        raise HeadError(f"event {link.seq} is not about client {client}")
    _require(link, tuple(decoded(str(part)) for part in proof), checkpoint)
    return link


def _require(link: Link, proof: tuple[bytes, ...], checkpoint: Checkpoint) -> None:
    digest = bytes.fromhex(link.digest().removeprefix("sha256:"))
    if root_from_inclusion(digest, link.seq - 1, checkpoint.size, proof) != checkpoint.root:
        raise HeadError(f"event {link.seq} is not in the record that the head is of")


def _held(note: Note, log: PublicKey, head: Note | None) -> Checkpoint:
    """The head that a file is about, which is ``head`` where that is given."""
    checkpoint = opened(note, log)
    if head is not None:
        wanted = opened(head, log)
        if wanted.size != checkpoint.size:
            raise HeadError(
                f"it is about the head of {checkpoint.size} events, and --head is of {wanted.size}: flserver prove "
                "takes --head too, for a file about that one"
            )
        if wanted.root != checkpoint.root:
            raise HeadError(f"its head of {checkpoint.size} events is another one than --head: its log signed both")
    return checkpoint


def _link(value: Any) -> Link:
    kinds = {"seq": int, "process_id": int}
    names = [field.name for field in fields(Link)]
    if not isinstance(value, Mapping) or any(type(value.get(name)) is not kinds.get(name, str) for name in names):
        raise HeadError("an event without the columns that its digest covers")
    return Link(**{name: value[name] for name in names})


def _json(text: str, line: int) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HeadError(f"line {line} is no JSON") from error
    if not isinstance(found, Mapping):
        raise HeadError(f"line {line} is no object")
    return found
