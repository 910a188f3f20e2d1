"""The head that a bundle is about: what its events are held against, and what its reader has from elsewhere."""

import re
from dataclasses import dataclass
from pathlib import Path

from flserver.audit.prove import extension
from flserver.errors import HeadError, UsageError
from flserver.heads.note import MOST_BYTES, Checkpoint, Note, encoded
from flserver.heads.tree import frontier
from flserver.store.tree_reader import TreeReader

UNSIGNED = "unsigned"
"""The origin of a head that nobody signed."""


@dataclass(frozen=True)
class Anchor:
    """A head as ``text``, signed or not, and the public ``key`` that signed it, as the record has it."""

    text: str
    key: str | None

    @property
    def checkpoint(self) -> Checkpoint:
        """What the head says."""
        return Checkpoint.parse(self.text.partition("\n\n")[0].rstrip("\n") + "\n")

    def __str__(self) -> str:
        return f"{self.checkpoint.size}:{encoded(self.checkpoint.root)}"


def read_head(path: Path) -> str:
    """A head in a file, signed or not. Raises UsageError where it cannot be read, HeadError where it is none."""
    try:
        with path.open("rb") as file:
            text = file.read(2 * MOST_BYTES).decode()
        return str(Note.parse(text)) if "\n\n" in text else str(Checkpoint.parse(text))
    except OSError as error:
        raise UsageError(f"--head {path}: {_typed(str(path)) or error.strerror}") from error
    except (HeadError, UnicodeDecodeError) as error:
        raise HeadError(f"--head {path}: {error}") from error


def _typed(given: str) -> str | None:
    """What was typed in the place of a file's name; None where it looks like neither head."""
    file = "--head takes a file with a signed head's text: a witness's cosigned, or what /checkpoint answers"
    if re.fullmatch("(sha256|[0-9]+):[0-9a-f]{64}", given):
        return f"this is the chain's head, its last event's digest, and not the tree's, which evidence prints; {file}"
    if re.fullmatch("[0-9]+:[A-Za-z0-9+/]{43}=", given):
        return f"this is the tree's head without its text; {file}"
    return None


def anchor(reader: TreeReader, given: str | None, least: int) -> Anchor:
    """The head that was ``given``; else the newest signed one, where it is of ``least`` events or more; else that of
    the record as it is, which nobody signed.

    Raises Rewritten where the record is not the one that the head is of, HeadError where it is of fewer events.
    """
    signed = {str(row["note"]): str(row["key"]) for row in reader.heads()}
    if given is not None:
        found = Anchor(given, _key_of(given, signed))
        if (size := found.checkpoint.size) < least:
            raise HeadError(f"the head is of {size} events, and what is asked for came with event {least}")
    else:
        found = Anchor(*next(reversed(signed.items()), ("", None)))
        if not found.text or found.checkpoint.size < least:
            with reader.nodes() as nodes:
                tree = frontier(nodes, nodes.size)
            found = Anchor(str(Checkpoint(origin=UNSIGNED, size=tree.size, root=tree.root)), None)
    if not found.text.replace("\n— ", "\n").isascii():
        raise HeadError("the head has a name that is not ASCII, which no bundle has: hand over flserver prove instead")
    extension(reader, found.checkpoint.size, Note(str(found.checkpoint)))
    return found


def _key_of(given: str, signed: dict[str, str]) -> str | None:
    """The key of a head with the same text; it may have a witness's signature too."""
    text = given.partition("\n\n")[0]
    return next((key for note, key in signed.items() if note.partition("\n\n")[0] == text), None)
