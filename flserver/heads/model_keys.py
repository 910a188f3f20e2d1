"""P-256 keys that sign models, for OpenSSF's model-signing, which takes no Ed25519: plain PEM files, as other tools
read them, the private one for its owner alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from flserver.errors import UsageError
from flserver.heads.keys import as_pem, read_passphrase, read_private, write_pair


@dataclass(frozen=True)
class ModelKey:
    """A key that signs models."""

    _key: EllipticCurvePrivateKey

    @classmethod
    def generate(cls) -> Self:
        """A new key."""
        return cls(generate_private_key(SECP256R1()))

    @classmethod
    def load(cls, path: Path, option: str, passphrase_file: Path | None = None) -> Self:
        """The key in the file at ``path``, which ``option`` names. Raises UsageError where it cannot be read, others
        can read it, or it is no P-256 key."""
        pem = read_private(path, option)
        words = None if passphrase_file is None else read_passphrase(passphrase_file, f"{option}-passphrase-file")
        try:
            key = load_pem_private_key(pem, words)
        except (TypeError, ValueError, UnsupportedAlgorithm) as error:
            reason = "is no private key in PEM, or its passphrase is wrong or missing"
            raise UsageError(
                f"{option} {path}: {reason}: {option}-passphrase-file names the passphrase's file"
            ) from error
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise UsageError(f"{option} {path}: is no P-256 key: flserver keygen --for-models makes one")
        return cls(key)

    @property
    def public_pem(self) -> bytes:
        """The public key in PEM."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> bytes:
        """An ECDSA signature over the SHA-256 of ``data``, in DER; another one each time."""
        return self._key.sign(data, ECDSA(SHA256()))

    def write(self, path: Path, passphrase: bytes | None = None) -> Path:
        """Make the files of the key, as :meth:`flserver.heads.keys.PrivateKey.write` does."""
        return write_pair(path, as_pem(self._key, passphrase), self.public_pem)
