"""Servers and trainers that speak TLS, with certificates made here."""

import socket
import ssl

from tests.certificates import Authority, Pair
from tests.e2e.harness import Peer, ServerProcess, connect


def served(authority: Authority, *, mutual: bool) -> tuple[str, ...]:
    pair = authority.server()
    options = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    return (*options, "--tls-client-ca", str(authority.path)) if mutual else options


def trusting(authority: Authority, own: Pair | None = None) -> ssl.SSLContext:
    """What a trainer's end is configured with."""
    context = ssl.create_default_context(cafile=authority.path)
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


class TlsPeer(Peer):
    """A trainer behind TLS: every connection of its own is wrapped."""

    def __init__(self, server: ServerProcess, client_id: object, context: ssl.SSLContext, data_size: int = 100) -> None:
        self.context = context
        super().__init__(server, client_id, data_size)

    def connect(self) -> socket.socket:
        return self.context.wrap_socket(connect(self.port), server_hostname="localhost")

    def end_of_upload(self, upload: socket.socket) -> None:
        """Nothing: an SSLSocket that was shut down reads what is under TLS."""
