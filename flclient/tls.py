"""TLS to the server: who is trusted, who we are, and what went wrong in one line."""

import contextlib
import socket
import ssl
from pathlib import Path

from flserver.errors import Cause, ConnectionLost, FlserverError, UsageError

HANDSHAKE_SECONDS = 30.0
FAREWELL_SECONDS = 30.0
RECORD_HEADER = 5  # bytes; the last two are the length of what follows
LONGEST_RECORD = RECORD_HEADER + 2**14 + 2048  # the text, and what TLS 1.2 lets encryption add (RFC 5246, 6.2.3)

ISSUER_CODES = (18, 19, 20, 21)  # OpenSSL's X509_V_ERR_…: self-signed, or no way to a trusted issuer
NAME_CODES = (62, 63, 64)  # the certificate is for another host name, e-mail or IP address
CERTIFICATE_ALERTS = (
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
)
PASSING_ALERTS = ("INTERNAL_ERROR", "USER_CANCELLED")  # the others of a handshake will be the same next time


class NotTrusted(FlserverError):
    """No TLS connection comes about, and trying again does not mend it: one end does not accept the other's
    certificate, or the server does not speak TLS as it is needed."""


class ClientTls:
    """How this client speaks TLS: made once, used by every connection."""

    def __init__(self, ca: Path, cert: Path | None, key: Path | None) -> None:
        """``key`` None: it is in the file of ``cert``. Raises UsageError where a file is not what its option needs."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it verifies certificate and host name
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        _trust(self._context, "--tls-ca", ca)
        self._has_cert = cert is not None
        if cert is not None:
            _present(self._context, cert, key)
        self._met = False

    def wrap(self, connection: socket.socket, host: str) -> ssl.SSLSocket:
        """Shake hands on a new connection, which is closed where that fails.

        Raises NotTrusted, or ConnectionLost where it is the network's fault.
        """
        try:
            wrapped = self._context.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False)
            try:
                wrapped.settimeout(HANDSHAKE_SECONDS)
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
        except OSError as error:
            connection.close()
            raise self._failed(error, host) from error
        self._met = True
        return wrapped

    def _failed(self, error: OSError, host: str) -> FlserverError:
        """What a handshake's failure means."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return NotTrusted(_distrust(error, host))
        if isinstance(error, ssl.SSLEOFError):
            return self._broken("the server closed the connection in the TLS handshake", "closed")
        if isinstance(error, ssl.SSLError):
            refusal = alert_of(error)
            if refusal == "HANDSHAKE_FAILURE" and not self._has_cert:  # how TLS 1.2 asks for one
                return NotTrusted("the server refuses the TLS handshake; it may demand a certificate: give --tls-cert")
            if refusal is None:
                return NotTrusted(f"no TLS 1.2 or later comes about: the server may not speak it ({_words(error)})")
            if refusal not in (*CERTIFICATE_ALERTS, *PASSING_ALERTS):
                return NotTrusted(f"the server refuses the TLS handshake ({_words(error)})")
            return lost(error)
        if isinstance(error, TimeoutError) and error.errno is None:
            # One that still loads its data leaves us in its backlog: silent, but soon there
            hint = "" if self._met else "; it may not speak TLS"
            return ConnectionLost(
                f"the server was silent for {HANDSHAKE_SECONDS:.0f} s in the TLS handshake{hint}", "timeout"
            )
        cause: Cause = "reset" if isinstance(error, (ConnectionResetError, BrokenPipeError)) else "other"
        hint = "" if self._met else "; the server may not speak TLS"
        return ConnectionLost(f"the connection was lost in the TLS handshake: {error.strerror or error}{hint}", cause)

    def _broken(self, message: str, cause: Cause) -> FlserverError:
        # A server that has spoken TLS before is being stopped or started; another one has yet to show that it can
        return ConnectionLost(message, cause) if self._met else NotTrusted(f"{message}; it may not speak TLS")


def tls_of(ca: str | None, cert: str | None, key: str | None) -> ClientTls | None:
    """What the three options ask for; None is plain text. Raises UsageError where they do not fit together."""
    if cert is None and key is not None:
        raise UsageError("--tls-key needs --tls-cert: a key is nothing without its certificate")
    if ca is None and cert is not None:
        raise UsageError("--tls-cert needs --tls-ca: without it nothing is encrypted")
    if ca is None:  # an empty name is not None: it asked for TLS, and must not end in plain text
        return None
    return ClientTls(Path(ca), *(None if name is None else Path(name) for name in (cert, key)))


def verdict(error: OSError) -> NotTrusted | None:
    """What the server says of our certificate, where ``error`` is that.

    In TLS 1.3 it comes when the handshake is long over for us, at whatever we read or write next.
    """
    refusal = alert_of(error)
    if refusal == "CERTIFICATE_REQUIRED":
        return NotTrusted("the server demands a certificate: give --tls-cert")
    if refusal in CERTIFICATE_ALERTS:
        return NotTrusted(f"the server does not accept this client's certificate ({_words(error)}): see --tls-cert")
    return None


def lost(error: ssl.SSLError) -> FlserverError:
    """What an error of TLS means on a connection whose handshake is behind us."""
    if isinstance(error, ssl.SSLEOFError):
        return ConnectionLost("the server closed the connection", "closed")
    return verdict(error) or ConnectionLost(f"the connection was lost: {_words(error)}")


def alert_of(error: OSError) -> str | None:
    """The name of the alert that the server sent, None where ``error`` is no such thing."""
    _, found, name = (getattr(error, "reason", None) or "").partition("ALERT_")
    return name if found else None


def read_first(connection: ssl.SSLSocket, into: memoryview, stall_seconds: float) -> int:
    """Wait for the first bytes of a frame, without limit, but not for the rest of a record that has begun.

    A record may carry nothing for us (a session ticket): having read it, we wait again.
    """
    while not connection.pending():
        connection.settimeout(None)
        arrived = _peek(connection, LONGEST_RECORD)
        length = int.from_bytes(arrived[RECORD_HEADER - 2 : RECORD_HEADER], "big")
        if len(arrived) < RECORD_HEADER + length:
            break
        connection.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError):
            return connection.recv_into(into)
    connection.settimeout(stall_seconds)
    return connection.recv_into(into)


def farewell(connection: ssl.SSLSocket, seconds: float) -> NotTrusted | None:
    """Say that no more is coming and wait up to ``seconds`` for the server to close its end.

    Closing at once would leave its session tickets unread, and then the kernel throws away what it has yet to send.
    What the server says of our certificate meanwhile is returned.
    """

    def read() -> None:
        connection.recv(1)

    # unwrap reads too, if it may, and keeps to itself what it read: so it never waits, and comes between two reads
    for step, patience in ((read, 0.0), (connection.unwrap, 0.0), (read, seconds)):
        try:
            connection.settimeout(patience)
            step()
        except OSError as error:  # the server may well close without a word: it owes none
            if refusal := verdict(error):
                return refusal
    return None


def _peek(connection: ssl.SSLSocket, size: int) -> bytes:
    # SSLSocket.recv takes no flags: this is the socket below it
    return socket.socket.recv(connection, size, socket.MSG_PEEK)


def _distrust(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in ISSUER_CODES:
        return "the server's certificate is from no CA in --tls-ca"
    if error.verify_code in NAME_CODES:
        return f"the server's certificate is not for the name {host}: see --host"
    return f"the server's certificate is not valid: {error.verify_message}"


def _words(error: OSError) -> str:
    """OpenSSL's reason in small letters."""
    name = alert_of(error) or getattr(error, "reason", None) or error.strerror or "no reason given"
    return name.replace("_", " ").lower()


def _trust(context: ssl.SSLContext, option: str, path: Path) -> None:
    """Trust the certificates in a file. Raises UsageError where there are none."""
    _check_readable(option, path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise UsageError(f"{option} {path} is not a PEM file of certificates") from error


def _present(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Present our own certificate to a server that asks."""
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "--tls-cert", cert)  # OpenSSL does not say which file is wrong
    if key is not None:
        _check_readable("--tls-key", key)
    holder = f"--tls-key {key}" if key is not None else f"--tls-cert {cert}, without --tls-key,"

    def locked() -> str:  # else OpenSSL asks at the terminal
        raise UsageError(f"{holder} holds a key that needs a passphrase: give one without")

    try:
        context.load_cert_chain(cert, key, password=locked)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise UsageError(f"{holder} does not hold the key of --tls-cert {cert}") from error
        if error.reason:
            raise UsageError(f"--tls-cert {cert} cannot be used: {_words(error)}") from error
        raise UsageError(f"{holder} does not hold a private key in PEM form") from error


def _check_readable(option: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"cannot read {option} {path}: {error.strerror}") from error
