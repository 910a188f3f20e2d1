"""By which settings a node's process on a Ray cluster knows who its peers are: a connection outlives the server that
let it in, and is no more than it was under the next one's."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flserver.settings import ServerSettings


@dataclass(frozen=True, kw_only=True)
class KnownBy:
    """What says who a peer is: one that was let in under other settings is not known under these."""

    tls_cert: Path | None
    tls_client_ca: Path | None
    trusted_proxy: str | None
    clients: Path | None
    insecure: bool
    issuers: str | None  # the digest of the file tls_client_ca

    @staticmethod
    def of(settings: ServerSettings) -> "KnownBy":
        """As these settings have it now."""
        policy, digest = settings.identity, None
        if policy.tls_client_ca is not None:
            with suppress(OSError):  # who makes the node says so
                digest = hashlib.sha256(policy.tls_client_ca.read_bytes()).hexdigest()
        return KnownBy(
            tls_cert=policy.tls_cert,
            tls_client_ca=policy.tls_client_ca,
            trusted_proxy=policy.trusted_proxy,
            clients=policy.clients,
            insecure=settings.network.insecure,
            issuers=digest,
        )
