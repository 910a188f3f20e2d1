"""Ed25519 keys: made, kept in files, and used. With ``heads.model_keys`` the only home of ``cryptography``.

A private key is a file that nobody else can read: a line that says what it is and its name, then PEM (PKCS #8, with or
without a passphrase). Its public key stands beside it, one line in a file that ends in ``.pub``.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from flserver.errors import HeadError, UsageError
from flserver.files import create, open_regular
from flserver.heads.note import LOG, WITNESS, Checkpoint, Note, PublicKey, Signature, checked_name, cosigned_text

PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644
MOST_BYTES = 64 * 1024  # of a file with a key or a passphrase
TIME_BYTES, SIGNATURE_BYTES = 8, 64
_TITLE = {LOG: "flserver signing key", WITNESS: "flserver witness key"}
_FIRST_LINE = re.compile(f"({'|'.join(_TITLE.values())}) (\\S+)")


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs, and what it is known by."""

    public: PublicKey
    _key: Ed25519PrivateKey

    @classmethod
    def generate(cls, name: str, kind: int = LOG) -> Self:
        """A new key. Raises HeadError where nobody can have that name."""
        return cls._of(Ed25519PrivateKey.generate(), name, kind)

    @classmethod
    def _of(cls, key: Ed25519PrivateKey, name: str, kind: int) -> Self:
        raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return cls(PublicKey(name=checked_name(name), kind=kind, raw=raw), key)

    def sign(self, size: int, root: bytes) -> Note:
        """The head of a log of this key's name, signed."""
        text = str(Checkpoint(origin=self.public.name, size=size, root=root))
        return Note(text).signed(self._signature(self._key.sign(text.encode())))

    def cosign(self, note: Note, time: int) -> Signature:
        """A witness's signature of ``note`` at ``time`` (Unix, in seconds)."""
        made = self._key.sign(cosigned_text(time, note.text))
        return self._signature(time.to_bytes(TIME_BYTES, "big") + made)

    def _signature(self, data: bytes) -> Signature:
        return Signature(self.public.name, self.public.key_id, data)

    def write(self, path: Path, passphrase: bytes | None = None) -> Path:
        """Make the files of the key; the public key's, which is returned, is beside ``path``. Both are durable then.

        Raises UsageError where one of them is there already, or cannot be made.
        """
        title = f"{_TITLE[self.public.kind]} {self.public.name}\n"
        return write_pair(path, title.encode() + as_pem(self._key, passphrase), f"{self.public}\n".encode())


def as_pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    """A private key in PEM (PKCS #8), encrypted where there is a passphrase."""
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def write_pair(path: Path, private: bytes, public: bytes) -> Path:
    """Make the file of a private key, and beside it that of the public one, which is returned. Both are durable then.

    Raises UsageError where one of them is there already, or cannot be made.
    """
    beside = path.with_name(path.name + ".pub")
    for file, data, mode in ((path, private, PRIVATE_MODE), (beside, public, PUBLIC_MODE)):
        try:
            with open(create(file, mode=mode), "wb") as open_file:
                os.fchmod(open_file.fileno(), mode)  # whatever the umask
                open_file.write(data)
                open_file.flush()
                os.fsync(open_file.fileno())
        except FileExistsError as error:
            raise UsageError(f"{file} is there already: a key is never written over") from error
        except OSError as error:
            raise UsageError(f"{file} cannot be made: {error.strerror}") from error
    return beside


def load(path: Path, kind: int, option: str, passphrase_file: Path | None = None) -> PrivateKey:
    """The private key of that ``kind`` in the file at ``path``, which ``option`` names.

    Raises UsageError where it cannot be read, others can read it, or it is no such key.
    """
    try:
        PublicKey.parse(_public(path))
    except HeadError:
        pass
    else:
        raise UsageError(
            f"{option} {path}: is a public key, for those who check. What signs is the private one, which keygen has "
            f"made beside it: {path.with_suffix('')}"
        )
    first, _, pem = read_private(path, option).partition(b"\n")
    title = _FIRST_LINE.fullmatch(first.decode("utf-8", "replace").rstrip("\r"))
    if title is None:
        raise UsageError(f"{option} {path}: is no key that flserver keygen has made")
    if title[1] != _TITLE[kind]:
        raise UsageError(f"{option} {path}: is a {title[1].split()[1]} key, and a {_TITLE[kind].split()[1]} key is due")
    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file, f"{option}-passphrase-file")
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:  # one was given and none is needed, or the other way round
        wrong = "has no passphrase" if passphrase else f"has a passphrase: {option}-passphrase-file names its file"
        raise UsageError(f"{option} {path}: {wrong}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = "the passphrase is wrong, or the file is damaged" if passphrase else "is damaged"
        raise UsageError(f"{option} {path}: {reason}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{option} {path}: is no Ed25519 key")
    try:
        return PrivateKey._of(key, title[2], kind)
    except HeadError as error:
        raise UsageError(f"{option} {path}: {error}") from error


def _public(path: Path) -> str:
    """The file's text, if it could be that of a public key, which others may read; else nothing."""
    try:
        with open_regular(path.resolve()) as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def read_passphrase(path: Path, option: str) -> bytes:
    """The first line of a file that nobody else can read. Raises UsageError."""
    found = read_private(path, option).partition(b"\n")[0].rstrip(b"\r")
    if not found:
        raise UsageError(f"{option} {path}: its first line is empty")
    return found


def read_private(path: Path, option: str) -> bytes:
    """What is in a file for this user alone."""
    try:
        with open_regular(path.resolve()) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UsageError(f"{option} {path}: others can read it (mode {mode:04o}): chmod 600 {path}")
            return file.read(MOST_BYTES)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from error


def opened(note: Note, log: PublicKey) -> Checkpoint:
    """What ``note`` says where ``log`` has signed it as a head of its own. Raises HeadError."""
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != log.name:
        raise HeadError(f"a head of {checkpoint.origin[:80]!r}, and not of {log.name}")
    for signature in note.signatures:
        if signature.is_of(log) and _holds(log, signature.data, note.text.encode()):
            return checkpoint
    raise HeadError(f"a head of {log.name} that its key has not signed")


def cosigned_at(note: Note, witness: PublicKey) -> int | None:
    """When ``witness`` cosigned ``note`` (Unix, in seconds); None where it has not."""
    for signature in note.signatures:
        time, made = int.from_bytes(signature.data[:TIME_BYTES], "big"), signature.data[TIME_BYTES:]
        if signature.is_of(witness) and _holds(witness, made, cosigned_text(time, note.text)):
            return time
    return None


def _holds(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, data)
    except InvalidSignature:
        return False
    return True
