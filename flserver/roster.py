"""The roster of ``--clients``: a CSV file that says who may take part."""

import csv
from pathlib import Path

from flserver.errors import MessageRefused, UsageError
from flserver.identity import Member, Roster
from flserver.wire.messages import read_client_id

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
