"""TLS of simulated trainers: a connection of the loop whose bytes are sealed, and what it is configured with."""

import selectors
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from flserver.errors import UsageError
from flserver.simulation.loop import MOST_READ, Ended, Link, Loop

SEALED_AT_ONCE: Final = 1 << 18  # bytes
WHOSE: Final = "{id}"  # in a file's name: the trainer's id


class Tls:
    """How the trainers of a process speak TLS. ``told`` names the files ``ca``, and ``cert`` and ``key`` or None, in
    which ``{id}`` is the trainer's; ``host`` is whom the server's certificate is to be for."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._told, self.host = told, str(told["host"])
        self._contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}

    def context(self, client_id: str) -> ssl.SSLContext:
        """The trainer's. Raises UsageError."""
        names = [self._told[name] for name in ("ca", "cert", "key")]
        files = tuple(name and name.replace(WHOSE, client_id) for name in names)
        if files not in self._contexts:
            self._contexts[files] = _context(*files)
        return self._contexts[files]


def _context(ca: str, cert: str | None, key: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def locked() -> str:  # else OpenSSL asks at the terminal
        raise UsageError(f"the key of --tls-cert {cert} needs a passphrase: give one without")

    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise UsageError(f"--tls-ca {ca} is no file of certificates in PEM form: {_words(error)}") from error
    if cert is not None:
        try:
            context.load_cert_chain(cert, key, locked)
        except OSError as error:
            which = f"--tls-cert {cert}" if key is None else f"--tls-cert {cert} with --tls-key {key}"
            raise UsageError(f"{which} cannot be used: {_words(error)}") from error
    return context


class TlsLink(Link):
    """A connection to a server that proves to be ``host``."""

    def __init__(
        self,
        loop: Loop,
        family: int,
        address: tuple[object, ...],
        ended: Ended,
        source: str | None,
        context: ssl.SSLContext,
        host: str,
    ) -> None:
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._goes, server_hostname=host)
        self._agreed = False  # the handshake is over
        self._sealed = memoryview(b"")  # what is to be sent next
        super().__init__(loop, family, address, ended, source)

    def say_no_more(self) -> None:
        with suppress(ssl.SSLWantReadError):  # what the server says last may come later
            self._tls.unwrap()
        self._flush()

    @property
    def _events(self) -> int:
        """A handshake reads, whoever waits for what."""
        write = not self._connected or len(self._sealed) or (self._agreed and self._pieces)
        read = self._connected and (self._reading or not self._agreed)
        return (selectors.EVENT_WRITE if write else 0) | (selectors.EVENT_READ if read else 0)

    def _connect(self) -> bool:
        return super()._connect() and self._agree()

    def _agree(self) -> bool:
        """Go on with the handshake. Returns whether the connection is still there."""
        try:
            self._tls.do_handshake()
            self._agreed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._flush()  # an alert
            if not self.closed:
                self._end(f"no TLS comes about: {_words(error)}")
            return False
        self._flush()
        return not self.closed

    def _write(self) -> None:
        self._flush()
        while self._agreed and self._pieces and not (self.closed or self._sealed):
            piece = self._pieces[0]
            try:
                written = self._tls.write(piece[:SEALED_AT_ONCE])
            except ssl.SSLError as error:
                self._end(_words(error))
                return
            self._pieces[:1] = [piece[written:]] if written < len(piece) else []
            self._flush()
        if not (self.closed or self._pieces or self._sealed) and (done := self._done) is not None:
            self._done = None
            done()

    def _flush(self) -> None:
        """Send what is sealed, as far as that takes no waiting."""
        while not self.closed:
            self._sealed = self._sealed or memoryview(self._goes.read())
            if not self._sealed or not (sent := self._send([self._sealed])):
                return
            self._sealed = self._sealed[sent:]

    def _read(self) -> None:
        data = self._receive()
        if data is None:
            return
        self._came.write(data) if data else self._came.write_eof()
        if not self._agreed and not self._agree():
            return
        while self._agreed and not self.closed:
            try:
                plain = self._tls.read(MOST_READ)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                plain = b""
            except ssl.SSLError as error:
                self._end(f"the server refuses: {_words(error)}")
                return
            if not plain:
                self._end("")
            elif self._take is not None:
                self._take(plain)
        self._flush()
        if self._pieces and not self.closed:  # they waited for the handshake
            self._write()


def _words(error: OSError) -> str:
    """What is wrong, in small letters where OpenSSL says it."""
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else error.strerror or str(error)
