"""Signed notes, checkpoints and public keys as text: C2SP's signed-note, tlog-checkpoint and tlog-cosignature. Pure.

A note is its text, an empty line, and a line for each signature: ``— name base64(key id, signature)``. The text of a
checkpoint is three lines: the log's origin, how many leaves its tree has, and its root in base64.
"""

import base64
import binascii
import re
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Self

from flserver.errors import HeadError

LOG, WITNESS = 0x01, 0x04
"""The kinds of keys: a log's signs the note itself (Ed25519), a witness's a time with it (cosignature/v1)."""
MOST_BYTES = 64 * 1024  # of a note; with a hundred witnesses it has ten thousand
MOST_LEAVES = 2**63 - 1
KEY_BYTES = 32
KEY_ID_BYTES = 4
HASH_BYTES = 32
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A key that signatures are held against; ``kind`` is LOG or WITNESS, ``raw`` the 32 bytes of Ed25519."""

    name: str
    kind: int
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """From one line ``name+keyid+base64``. Raises HeadError."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise HeadError(f"{text.strip()[:80]!r} is no public key: that is name+keyid+base64 on one line")
        name, key_id, encoded = parts
        data = decoded(encoded)
        if len(data) != 1 + KEY_BYTES or data[0] not in (LOG, WITNESS):
            raise HeadError(f"the key of {name} is no Ed25519 key of a log or a witness")
        key = cls(name=checked_name(name), kind=data[0], raw=data[1:])
        if key.key_id.hex() != key_id.lower():
            raise HeadError(f"the key of {name} has the id {key.key_id.hex()}, and not {key_id}")
        return key

    @property
    def key_id(self) -> bytes:
        """The 4 bytes by which a signature says whose it is."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.raw).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encoded(bytes([self.kind]) + self.raw)}"


@dataclass(frozen=True)
class Signature:
    """A line below a note. ``data`` is what follows the key's id."""

    name: str
    key_id: bytes
    data: bytes

    def is_of(self, key: PublicKey) -> bool:
        """Whether it says that it was made with ``key``."""
        return (self.name, self.key_id) == (key.name, key.key_id)

    def __str__(self) -> str:
        return f"— {self.name} {encoded(self.key_id + self.data)}"


@dataclass(frozen=True)
class Note:
    """A text, its last line ended, and its signatures, which nobody has checked."""

    text: str
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def parse(cls, written: str) -> Self:
        """Raises HeadError."""
        if len(written) > MOST_BYTES:
            raise HeadError(f"a note of more than {MOST_BYTES} bytes")
        text, gap, below = written.rpartition("\n\n")
        lines = below.split("\n")
        if not gap or not text or lines[-1] != "" or len(lines) < 2:
            raise HeadError("what should be a signed note has no text, an empty line and signatures below it")
        if any(ord(char) < 32 and char != "\n" for char in text):
            raise HeadError("a note with control characters")
        return cls(text + "\n", tuple(_signature(line) for line in lines[:-1]))

    def signed(self, *signatures: Signature) -> Self:
        """With these below the others."""
        return replace(self, signatures=(*self.signatures, *signatures))

    def __str__(self) -> str:
        return self.text + "\n" + "".join(f"{signature}\n" for signature in self.signatures)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a head says: the log of that ``origin`` has a tree of ``size`` leaves with that ``root`` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a note's text; lines below the three are extensions, and are passed over. Raises HeadError."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] != "" or "" in lines[:-1]:
            raise HeadError("what should be a head is not three lines: origin, size and root")
        origin, size, root = lines[0], lines[1], decoded(lines[2])
        if not _NUMBER.fullmatch(size) or int(size) > MOST_LEAVES or len(root) != HASH_BYTES:
            raise HeadError(f"a head of {origin[:80]!r} without a size and a root")
        return cls(origin=origin, size=int(size), root=root)

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n"


def cosigned_text(time: int, text: str) -> bytes:
    """What a witness signs: that it saw the note's ``text`` at ``time`` (Unix, in seconds) as an extension of all that
    it saw before."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def checked_name(name: str) -> str:
    """``name`` where it can be a key's: some text without blanks and plus signs. Raises HeadError."""
    if not name or len(name) > 200 or "+" in name or any(char.isspace() or not char.isprintable() for char in name):
        raise HeadError(f"{name[:80]!r} cannot be a key's name: it is text without blanks, plus signs and line ends")
    return name


def encoded(data: bytes) -> str:
    """``data`` in base64."""
    return base64.b64encode(data).decode("ascii")


def decoded(text: str) -> bytes:
    """The bytes that ``text`` is the base64 of; of several ways to write them only one is taken. Raises HeadError."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HeadError(f"{text[:80]!r} is not base64") from error
    if encoded(data) != text:
        raise HeadError(f"{text[:80]!r} is not base64")
    return data


def number(text: str) -> int:
    """A number of leaves. Raises HeadError."""
    if not _NUMBER.fullmatch(text):
        raise HeadError(f"{text[:80]!r} is no number")
    return int(text)


def _signature(line: str) -> Signature:
    mark, name, data = [*line.split(" "), "", ""][:3] if line.count(" ") == 2 else ("", "", "")
    found = decoded(data) if mark == "—" else b""
    if len(found) <= KEY_ID_BYTES:
        raise HeadError("a line below a note is no signature")
    return Signature(checked_name(name), found[:KEY_ID_BYTES], found[KEY_ID_BYTES:])
