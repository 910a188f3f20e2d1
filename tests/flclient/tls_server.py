"""The plain server over TLS, and a peer that writes single bytes of TLS's records."""

import ssl

import pytest

from flserver.models.architectures import DEFAULT_MODEL, build
from tests.flclient.plain_server import PlainServer

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def server_context(pair, client_ca=None, version=None):
    """Serve with ``pair``; ``client_ca``: demand a certificate that it issued; ``version``: speak this one only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca.path)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class TlsServer(PlainServer):
    """A PlainServer whose connections are TLS. ``context`` may be exchanged between two of them."""

    def __init__(self, script, context, **where):
        super().__init__(script, **where)
        self.context = context
        self.peer_certs = []

    def accept(self):
        """The next connection after its handshake; raises what the handshake raised."""
        connection = super().accept()
        try:
            connection = self.context.wrap_socket(connection, server_side=True)
        finally:
            self._open[-1] = connection
        self.peer_certs.append(connection.getpeercert())
        return connection


class ByHand:
    """The server's end of one connection, with its records in our hands before they are sent."""

    def __init__(self, connection, context):
        self._connection = connection
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    def handshake(self):
        """Raises what it raised; what is then to be sent is ``unsent``."""
        self._until(self._tls.do_handshake)
        self.send(self.unsent())

    def unsent(self):
        return self._out.read()

    def _until(self, step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.send(self.unsent())
                piece = self._connection.recv(2**16)
                assert piece, "end of file"
                self._in.write(piece)

    def read(self, count):
        """Exactly ``count`` bytes, at most a record's worth."""
        body = self._until(lambda: self._tls.read(count))
        return body if len(body) == count else body + self.read(count - len(body))

    def record(self, data):
        """The bytes that ``data`` becomes."""
        self._tls.write(data)
        return self.unsent()

    def send(self, raw):
        self._connection.sendall(raw)


def one_round(server):
    connection = server.admit()
    server.round(connection, build(DEFAULT_MODEL, 9))
    server.finish(connection)
    assert connection.recv(1) == b"", "end of file, no reset"


def refused_handshake(server):
    with pytest.raises(ssl.SSLError):
        server.accept()
