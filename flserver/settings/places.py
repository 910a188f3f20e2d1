"""Where a record is, as somebody has typed it after ``--db``: a file of SQLite's, or a database of PostgreSQL's."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from flserver.errors import UsageError

SCHEMES = ("postgresql://", "postgres://")
SERVICE = "service="
SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret"})
"""What libpq would take from a URL, and nobody should put there."""
HOST = r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?"
NO_URL = "--db: this is no URL of PostgreSQL's, such as postgresql://USER@HOST:5432/DATABASE"


@dataclass(frozen=True)
class Address:
    """A database of PostgreSQL, for libpq: a URL, or ``service=NAME``. There is no secret in it, so that it may be
    shown, in messages, in ``ps`` and on record."""

    typed: str

    def __str__(self) -> str:
        return self.typed

    def __post_init__(self) -> None:
        """Raises UsageError where a password is in it, and for what is no URL; neither is repeated."""
        if self.typed.startswith(SERVICE):
            name = self.typed.removeprefix(SERVICE)
            if not name or name.split() != [name]:
                raise UsageError("--db service=NAME: the rest belongs in the service file (~/.pg_service.conf)")
            return
        try:
            parts = urlsplit(self.typed)
            given = {key for key, _ in parse_qsl(parts.query, keep_blank_values=True)}
        except ValueError:
            raise UsageError(NO_URL) from None
        user, _, hosts = parts.netloc.rpartition("@")
        if ":" in user or "@" in parts.path or SECRETS & given:
            raise UsageError(
                "--db: a URL with a password in it shows that to everybody who sees this command line, so it is not "
                "taken. Leave it out, and put it into ~/.pgpass (or PGPASSFILE), a service file (service=NAME), or "
                "PGPASSWORD"
            )
        # What stands where a port has to could be a password with a / in it.
        if parts.fragment or not all(re.fullmatch(HOST, host) for host in hosts.split(",")):
            raise UsageError(NO_URL)


Place = Path | Address


def place_of(typed: "str | Place") -> Place:
    """What was typed after ``--db``. Raises UsageError where nothing was, or a password."""
    if not isinstance(typed, str):
        return typed
    if not typed:
        raise UsageError("--db: there is no name")
    return Address(typed) if typed.startswith((*SCHEMES, SERVICE)) else Path(typed)


def typed_anywhere(place: Place) -> str:
    """What to type for it in whatever folder."""
    return str(place.absolute() if isinstance(place, Path) else place)


def name_of(place: Place) -> str:
    """What it is called by, without where it is."""
    if isinstance(place, Path):
        return place.name
    return place.typed if place.typed.startswith(SERVICE) else urlsplit(place.typed).path.strip("/") or place.typed


def without_its_place(place: Place) -> str:
    """What to type for it where it may not be said in which folder or on which machine it is."""
    if isinstance(place, Path):
        return f"PATH/TO/{place.name}"
    return place.typed if place.typed.startswith(SERVICE) else f"postgresql://USER@HOST/{name_of(place)}"


def checkpoints_beside(place: Place) -> Path:
    """Where the checkpoints of a database's runs lie unless ``--checkpoint-dir`` says otherwise. Raises UsageError
    where there is no such place."""
    if isinstance(place, Address):
        raise UsageError(
            f"--checkpoint-dir has to say where the models go: nothing can lie beside {place}, which is PostgreSQL's"
        )
    return place.with_name(place.name + ".checkpoints")
