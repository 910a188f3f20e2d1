"""TLS on the trainers' port: the server's certificate, the trainers' where they are asked for one, and reloading."""

import hashlib
import ssl
from pathlib import Path
from typing import Any

from flserver.errors import HandshakeRefused, UsageError
from flserver.identity.peer import Certificate
from flserver.text import printable

SUBJECT_LIMIT = 1000  # characters of a certificate's subject that go on record


class Tls:
    """Holds the TLS context that new connections get, and its certificate's ``fingerprint``. ``client_ca`` makes it
    mutual TLS.

    Raises UsageError where a file cannot be used.
    """

    def __init__(self, cert: Path, key: Path | None, client_ca: Path | None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self.fingerprint: str | None = None
        self.context = self._load()

    def reload(self) -> None:
        """Read the files again, for the connections to come. Raises UsageError; the context then stays."""
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A trainer that closes after its upload has not read a ticket of TLS 1.3: its system would send a reset for it.
        context.num_tickets = 0
        files = f"--tls-cert {self._cert}" + (f" --tls-key {self._key}" if self._key else "")
        try:
            # Without a password here, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._cert, self._key, password=lambda: "")
        except OSError as error:
            keyless = self._key is None and self._cert.is_file() and b"PRIVATE KEY" not in self._cert.read_bytes()
            raise UsageError(
                f"{files}: {'there is no key in it: give --tls-key' if keyless else _said(error)}"
            ) from error
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(cafile=self._client_ca)
            except OSError as error:
                raise UsageError(f"--tls-client-ca {self._client_ca}: {_said(error)}") from error
        self.fingerprint = _fingerprint_in(self._cert)
        return context


def _fingerprint_in(path: Path) -> str | None:
    """The fingerprint of the first certificate in a file; None where OpenSSL knows it by another header."""
    text = path.read_text(encoding="utf-8", errors="replace")
    begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
    if begin not in text:
        return None
    return _fingerprint(ssl.PEM_cert_to_DER_cert(begin + text.partition(begin)[2].partition(end)[0] + end))


def _fingerprint(der: bytes) -> str:
    return "sha256:" + hashlib.sha256(der).hexdigest()


def _said(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return f"no PEM file that OpenSSL reads, or a key with a password ({error.reason or error})"


def certificate_of(sock: ssl.SSLSocket) -> Certificate | None:
    """The peer's certificate, where one was asked for and verified."""
    der = sock.getpeercert(binary_form=True)
    if der is None:
        return None
    # The subject is RDNs, each of one or more (name, value).
    told: Any = sock.getpeercert() or {}
    pairs = [pair for rdn in told.get("subject", ()) for pair in rdn]
    names = [str(value) for name, value in pairs if name == "commonName"]
    return Certificate(
        subject=printable(", ".join(f"{name}={value}" for name, value in pairs), SUBJECT_LIMIT),
        common_name=names[0] if len(names) == 1 else None,
        fingerprint=_fingerprint(der),
    )


def refusal(error: ssl.SSLError) -> HandshakeRefused:
    """Why a handshake failed, in one line: what the trainer's certificate lacks, or what the trainer said of ours."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeRefused(f"the certificate was not accepted: {error.verify_message}")
    reason = error.reason or str(error)
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return HandshakeRefused("no certificate was shown, and --tls-client-ca asks for one")
    if "ALERT" in reason:
        said = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return HandshakeRefused(f"the peer ended the TLS handshake: {said}")
    return HandshakeRefused(f"the TLS handshake failed: {reason.replace('_', ' ').lower()}")
