"""Who is let in: the certificates, the roster and the forwarders of a server process, checked before anything begins,
and read again when the operator says so."""

import dataclasses
import ipaddress
from typing import Any

from flserver.errors import UsageError
from flserver.identity.roster import Roster, read_roster
from flserver.identity.rules import Identity
from flserver.network.preamble import Preamble, networks
from flserver.network.tls import Tls
from flserver.settings import NetworkPolicy, ServerSettings
from flserver.settings.hosts import addresses, bare
from flserver.wire.proxy_header import plain_host


def check_host(network: NetworkPolicy, *, tls: bool) -> None:
    """Raises UsageError where the port would be open to a network without TLS, and nobody said that this is meant.

    A name that does not resolve is told as such: it would be open to nobody.
    """
    if tls or network.insecure or _is_loopback(bare(network.host)):
        return
    if network.host:
        addresses(network.host, network.server_port, "--host")
    raise UsageError(
        f"--host {network.host}: without TLS this needs --insecure. Trainers in the field run what they are sent as a "
        "model, so an attacker on the network path can run code on them. Give --tls-cert, or leave --host on 127.0.0.1 "
        "with a tunnel beside each trainer"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(plain_host(host)).is_loopback
    except ValueError:
        return host == "localhost"


def check_min_clients(settings: ServerSettings, *, said: bool, resumed: bool) -> str | None:
    """Check that no stranger alone makes a run where anybody can reach the port: a new run then begins with as many
    clients as somebody has ``said``. Of one that is ``resumed`` a warning is returned, where there is reason for one.

    Raises UsageError.
    """
    network, identity, needed = settings.network, settings.identity, settings.rounds.min_clients
    guarded = identity.tls_client_ca is not None or identity.clients is not None
    if said or guarded or _is_loopback(bare(network.host)):
        return None
    open_to_all = f"--host {network.host}: whoever reaches this port may register"
    if resumed:
        return f"{open_to_all}, and the run goes on with one client alone (--min-clients 1)" if needed == 1 else None
    raise UsageError(
        f"{open_to_all}, and a single stranger could train the run alone to its end. Say how many clients it begins "
        "with, as in --min-clients 3, or admit none but yours, with --tls-client-ca or --clients"
    )


class Admission:
    """Made of the settings. Raises UsageError where they do not fit together, or a file cannot be used. An ingest node
    is given its server's ``roster``, which is in force whatever its file has become, and however few are on it."""

    def __init__(self, settings: ServerSettings, roster: Roster | None = None) -> None:
        self._policy = policy = settings.identity
        if policy.tls_cert is None and (policy.tls_key is not None or policy.tls_client_ca is not None):
            raise UsageError("--tls-key and --tls-client-ca need --tls-cert")
        if policy.upload_from == "certificate" and policy.tls_client_ca is None:
            raise UsageError("--upload-from certificate needs --tls-client-ca")
        self._tls = Tls(policy.tls_cert, policy.tls_key, policy.tls_client_ca) if policy.tls_cert is not None else None
        self.identity = Identity(policy.upload_from, mutual_tls=policy.tls_client_ca is not None)
        needed = settings.rounds.min_clients
        if roster is None and (roster := self._roster()) is not None and len(roster) < needed:
            raise UsageError(f"--min-clients {needed}: only {len(roster)} are on the roster {policy.clients}")
        self.identity.roster = roster
        most = settings.network.max_connections
        if needed > most // 2:
            raise UsageError(f"--min-clients {needed}: --max-connections {most} has places for half as many")
        self.preamble = Preamble(
            tls=self._tls,
            proxies=networks(policy.trusted_proxy) if policy.trusted_proxy is not None else (),
            seconds=settings.network.first_frame_timeout,
        )

    def _roster(self) -> Roster | None:
        path = self._policy.clients
        if path is None:
            return None
        roster = read_roster(path)
        if self._policy.tls_client_ca is None and any(member.fingerprint for member in roster):
            raise UsageError(f"--clients {path} has fingerprints: they need --tls-client-ca to be looked at")
        return roster

    @property
    def reloads(self) -> bool:
        """Whether there is anything to read again."""
        return self._tls is not None or self._policy.clients is not None

    def reload(self, roster: Roster | None = None) -> None:
        """Read certificates and roster again, for the connections to come; a node is given the ``roster``.

        Raises UsageError where one cannot be used: what was in force stays.
        """
        if roster is None:
            roster = self._roster()
        else:
            self.identity.roster = roster  # its server has taken it, whatever becomes of the certificates here
        if self._tls is not None:
            self._tls.reload()
        self.identity.roster = roster

    @property
    def summary(self) -> str:
        """What is in force, for a line of the log."""
        detail = self.describe()
        clients = "" if detail["clients"] is None else f", {len(detail['clients'])} clients on the roster"
        return f"certificate {detail['certificate']}{clients}" if self.reloads else "nothing"

    def describe(self) -> dict[str, Any]:
        """What is in force, for the record."""
        roster = self.identity.roster
        members = None if roster is None else [dataclasses.asdict(member) for member in roster]
        return {"certificate": self._tls.fingerprint if self._tls is not None else None, "clients": members}
