"""Which peers may speak for a client.

Pure: what is compared are addresses, certificates and the roster. ``rounds`` asks here before a registration or an
update of a client counts.
"""

from contextlib import suppress

from flserver.errors import IdentityRefused
from flserver.events.words import IdentityKind
from flserver.frozen import frozen
from flserver.identity.peer import Certificate, Peer
from flserver.identity.registered import Registered
from flserver.identity.roster import Roster
from flserver.settings import UploadFrom


@frozen()
class Share:
    """Whom an upload is put down to before it is known whose it is: ``owner``, which stands for so many ``clients``."""

    owner: str
    clients: int


class Identity:
    """The identity rules of a server process.

    ``upload_from`` None is ``certificate`` where trainers show one (``mutual_tls``), else ``same-address``. ``roster``
    is replaced as a whole and never changed in place.
    """

    def __init__(
        self, upload_from: UploadFrom | None = None, *, mutual_tls: bool = False, roster: Roster | None = None
    ) -> None:
        self.upload_from: UploadFrom = upload_from or ("certificate" if mutual_tls else "same-address")
        self._mutual_tls = mutual_tls
        self.roster = roster

    def of(self, peer: Peer) -> IdentityKind:
        """Whether a certificate shows who a peer is, in the record's word."""
        return "authenticated" if self._mutual_tls and peer.certificate is not None else "claimed"

    def label(self, client_id: str) -> str | None:
        """What the roster calls a client, if it says so."""
        member = self.roster.get(client_id) if self.roster is not None else None
        return member.label if member is not None else None

    def check(self, client_id: str, peer: Peer) -> None:
        """Check that a peer may speak for a client at all. Raises IdentityRefused where it may not."""
        if self._mutual_tls:
            stands_for = self._stands_for(peer.certificate)
            if stands_for != client_id:
                raise IdentityRefused(f"the certificate is client {stands_for}'s, the message says client {client_id}")
        elif self.roster is not None and self.roster.get(client_id) is None:
            raise IdentityRefused(f"client {client_id} is not on the roster")

    def _stands_for(self, certificate: Certificate | None) -> str:
        """Whose certificate it is. Raises IdentityRefused where it is nobody's."""
        if certificate is None:
            raise IdentityRefused("no certificate was shown")
        roster = self.roster
        if roster is None:
            client_id, why = certificate.common_name, "has no single common name"
            if client_id is not None and not client_id.isprintable():  # nor may it stand in a reason as it is
                client_id, why = None, "has a common name that is no client's id"
        else:
            member = roster.of(certificate)
            client_id, why = member.client_id if member is not None else None, "is not on the roster"
            if member is None and certificate.common_name is not None and roster.get(certificate.common_name):
                why = f"is not the one that the roster has for client {certificate.common_name}"
        if client_id is None:
            raise IdentityRefused(f"the certificate {certificate.fingerprint} ({certificate.subject}) {why}")
        return client_id

    def check_registration(self, client_id: str, peer: Peer, before: Peer | None) -> None:
        """Check that a peer may register a client. ``before`` is who registered it in this process before, if anyone.

        Raises IdentityRefused where it may not; the message is for the trainer.
        """
        self.check(client_id, peer)
        if before is not None and not self._same(before, peer):
            raise IdentityRefused(f"client {client_id} registered from another address before")

    def check_upload(self, client_id: str, peer: Peer, registered: Peer | None) -> None:
        """Check that a peer may upload for a client. ``registered`` is who registered it in this process, if anyone.

        Raises IdentityRefused where it may not.
        """
        self.check(client_id, peer)
        if registered is not None and not self._same(registered, peer):
            raise IdentityRefused(
                f"client {client_id} registered from {registered.host}, an upload from {peer.host} does not count"
            )

    def _same(self, one: Peer, other: Peer) -> bool:
        """Whether two peers, each of which may speak for a client, count as the same."""
        return self.upload_from != "same-address" or one.host == other.host

    def expect_upload(self, peer: Peer, registered: Registered) -> Share:
        """As whose an upload of this peer could count, before its message says whose it is.

        ``registered`` are the peers that registered in this process, by client. A certificate stands for one client;
        without one, all clients of an address, or all there are, cannot be told from each other. Raises IdentityRefused
        where it could be nobody's.
        """
        if self._mutual_tls:
            stands_for = self._stands_for(peer.certificate)
            if stands_for not in registered:
                raise IdentityRefused(f"an upload, and client {stands_for} has not registered")
        if self.upload_from == "same-address":
            owner, clients = peer.host, len(registered.at(peer.host))
        else:
            owner, clients = "anywhere", len(registered)
        if not clients:
            where = f" from {peer.host}" if self.upload_from == "same-address" else ""
            raise IdentityRefused(f"an upload, and no client has registered{where}")
        return Share(f"client {stands_for}", 1) if self._mutual_tls else Share(owner, clients)

    def sender(self, client_id: str | None, peer: Peer, registered: Registered) -> str | None:
        """Whose an upload is that cannot be used, where that is known: None where it is not.

        ``client_id`` is what its message says, None where that cannot be read. Then a certificate tells, or an address
        from where one client alone has registered: not a loopback one, which stands for whoever has a forwarder there.
        """
        if client_id is None:
            client_id = self._only_one(peer, registered)
        if client_id is None or client_id not in registered:
            return None
        try:
            self.check_upload(client_id, peer, registered[client_id])
        except IdentityRefused:
            return None
        return client_id

    def _only_one(self, peer: Peer, registered: Registered) -> str | None:
        if self._mutual_tls:
            return next(iter(self.could_be(peer, registered)), None)
        there = registered.at(peer.host)
        return next(iter(there)) if self.upload_from == "same-address" and not peer.local and len(there) == 1 else None

    def could_be(self, peer: Peer, registered: Registered) -> tuple[str, ...]:
        """The clients whose upload could come from a peer: by its certificate, else by where they registered."""
        if self._mutual_tls:
            with suppress(IdentityRefused):
                stands_for = self._stands_for(peer.certificate)
                return (stands_for,) if stands_for in registered else ()
            return ()
        return tuple(sorted(registered.at(peer.host) if self.upload_from == "same-address" else registered))

    def lists(self, client_id: str) -> bool:
        """Whether a client may go on taking part: a roster that was read again may have left it out."""
        return self.roster is None or self.roster.get(client_id) is not None
