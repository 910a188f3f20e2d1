"""The roster of ``--clients``: who may take part, and the CSV file that says so."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flserver.errors import MessageRefused, UsageError
from flserver.identity.peer import Certificate
from flserver.wire.messages import read_client_id


@dataclass(frozen=True, kw_only=True)
class Member:
    """A client on the roster. ``label`` is text for people; ``fingerprint`` (``sha256:hex``) its certificate's."""

    client_id: str
    label: str | None = None
    fingerprint: str | None = None

    def __str__(self) -> str:
        return self.client_id if self.label is None else f"{self.client_id} ({self.label})"


class Roster:
    """The clients that may take part, by id and by the fingerprint of their certificate."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._by_id = {member.client_id: member for member in members}
        self._by_fingerprint = {m.fingerprint: m for m in members if m.fingerprint is not None}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._by_id.values())

    def get(self, client_id: str) -> Member | None:
        """The member with this id, if there is one."""
        return self._by_id.get(client_id)

    def of(self, certificate: Certificate) -> Member | None:
        """Whose certificate it is: by its fingerprint, else by its common name where the roster has no fingerprint for
        the member of that name. None where it is nobody's."""
        member = self._by_fingerprint.get(certificate.fingerprint)
        if member is None and certificate.common_name is not None:
            named = self._by_id.get(certificate.common_name)
            member = named if named is not None and named.fingerprint is None else None
        return member


COLUMNS = ("id", "label", "fingerprint")
HEX_DIGITS = set("0123456789abcdef")


def read_roster(path: Path) -> Roster:
    """The roster in a CSV file: a line of column names, then a client a line.

    ``id`` is needed; ``label`` is text for people; ``fingerprint`` is the SHA-256 of the client's certificate in
    hexadecimal digits, with or without colons, as ``openssl x509 -fingerprint -sha256`` prints it. Lines that begin
    with ``#`` are left out. Raises UsageError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read --clients {path}: {said}") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    try:
        rows = list(csv.reader(line for _, line in lines))
    except csv.Error as error:
        raise UsageError(f"--clients {path} is no CSV: {error}") from error
    columns = [name.strip().lower() for name in rows.pop(0)] if rows else []
    unknown = [name for name in columns if name not in COLUMNS]
    if "id" not in columns or unknown or len(set(columns)) < len(columns):
        raise UsageError(f"--clients {path}: the first line names the columns: id, label, fingerprint (id is needed)")
    members: list[Member] = []
    ids: set[str] = set()
    fingerprints: set[str] = set()
    for (number, _), row in zip(lines[1:], rows, strict=False):
        where = f"--clients {path}, line {number}"
        if len(row) > len(columns):
            raise UsageError(f"{where}: more fields than columns")
        member = _member(dict(zip(columns, map(str.strip, row), strict=False)), where)
        if member.client_id in ids or member.fingerprint in fingerprints:
            raise UsageError(f"{where}: this id or fingerprint is there already")
        ids.add(member.client_id)
        fingerprints |= {member.fingerprint} if member.fingerprint is not None else set()
        members.append(member)
    if not members:
        raise UsageError(f"--clients {path} names nobody")
    return Roster(members)


def _member(fields: dict[str, str], where: str) -> Member:
    try:
        client_id = read_client_id(fields.get("id", ""))
    except MessageRefused as error:
        raise UsageError(f"{where}: {error}") from error
    fingerprint = None
    if fields.get("fingerprint"):
        digits = fields["fingerprint"].lower().removeprefix("sha256:").replace(":", "")
        if len(digits) != 64 or not set(digits) <= HEX_DIGITS:
            raise UsageError(f"{where}: a fingerprint is a SHA-256 in 64 hexadecimal digits")
        fingerprint = "sha256:" + digits
    return Member(client_id=client_id, label=fields.get("label") or None, fingerprint=fingerprint)
