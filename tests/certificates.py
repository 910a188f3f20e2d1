"""Certificates made in the test, as PEM files. Elliptic keys, so that each takes milliseconds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, each in a PEM file of its own."""

    cert: Path
    key: Path

    def in_one_file(self) -> Path:
        """A file that holds both."""
        path = self.cert.with_suffix(".both.pem")
        path.write_bytes(self.key.read_bytes() + self.cert.read_bytes())
        return path

    def locked(self, passphrase: bytes) -> "Pair":
        """The same with a key that needs a passphrase."""
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        path = self.key.with_suffix(".locked.key")
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(passphrase),
            )
        )
        return Pair(self.cert, path)


class Authority:
    """A CA of its own. ``folder``, made where there is none, gets its certificate (``path``) and what it issues.

    Two authorities need two folders; a certificate "from another CA" is one that another Authority issued.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self._issued = 0
        self.path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def server(self, *names: str) -> Pair:
        """For the host names and addresses given; for localhost and 127.0.0.1 where none are."""
        return self._issue("server", *names)

    def expired_server(self, *names: str) -> Pair:
        """Valid until yesterday."""
        return self._issue("server", *names, starts=-2 * DAY, ends=-DAY)

    def early_server(self, *names: str) -> Pair:
        """Valid from tomorrow on."""
        return self._issue("server", *names, starts=DAY, ends=2 * DAY)

    def client(self, common_name: str | None, organization: str | None = None) -> Pair:
        """A client's own, with at most 64 characters as its subject's common name; with None it has no common name."""
        return self._issue("client", "client.test", common_name=common_name, organization=organization)

    def expired_client(self, common_name: str | None) -> Pair:
        """Valid until yesterday."""
        return self._issue("client", "client.test", common_name=common_name, starts=-2 * DAY, ends=-DAY)

    def early_client(self, common_name: str | None) -> Pair:
        """Valid from tomorrow on."""
        return self._issue("client", "client.test", common_name=common_name, starts=DAY, ends=2 * DAY)

    def _issue(
        self,
        kind: str,
        *names: str,
        common_name: str | None = None,
        organization: str | None = None,
        starts: timedelta = -DAY,
        ends: timedelta = 365 * DAY,
    ) -> Pair:
        now = datetime.now(UTC)
        issued = self._ca.issue_cert(
            *(names or ("localhost", "127.0.0.1")),
            common_name=common_name,
            organization_name=organization,
            not_before=now + starts,
            not_after=now + ends,
        )
        self._issued += 1  # not the name: a common name may be no file name
        pair = Pair(self._folder / f"{kind}-{self._issued}.pem", self._folder / f"{kind}-{self._issued}.key")
        issued.cert_chain_pems[0].write_to_path(pair.cert)
        issued.private_key_pem.write_to_path(pair.key)
        return pair
