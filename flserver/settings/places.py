"""Where a record is, as somebody has typed it after ``--db``: a file of SQLite's, or a database of PostgreSQL's."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from flserver.errors import UsageError

SCHEMES = ("postgresql://", "postgres://")
SERVICE = "service="
ALMOST = re.compile(r"\s*postgres\w*(\+\w+)?:", re.IGNORECASE)
"""What begins so is meant for PostgreSQL, and is no file's name."""
PASSWORD = re.compile(r"password\s*=", re.IGNORECASE)
SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
"""What libpq would take from a URL, and nobody should put there."""
KEYS = frozenset(
    [
        "application_name",
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "dbname",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "gsslib",
        "host",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "krbsrvname",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "options",
        "passfile",
        "port",
        "replication",
        "require_auth",
        "requirepeer",
        "requiressl",
        "service",
        "servicefile",
        "ssl",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcertmode",
        "sslcompression",
        "sslcrl",
        "sslcrldir",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslrootcert",
        "sslsni",
        "target_session_attrs",
        "tcp_user_timeout",
        "user",
    ]
)
"""What libpq takes from a URL's query besides: what it does not know could be a part of a password."""
HOST = r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?"
NO_URL = "--db: this is no URL of PostgreSQL's, such as postgresql://USER@HOST:5432/DATABASE"
SHOWN = (
    "--db: what has a password in it shows that to everybody who sees this command line, so it is not taken. Leave it "
    "out, and put it into ~/.pgpass (or PGPASSFILE), a service file (service=NAME), or PGPASSWORD"
)


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
            raise UsageError(SHOWN)
        # What stands where a port has to, or a key, could be a part of a password with a / or a ? in it.
        if parts.fragment or given - KEYS or not all(re.fullmatch(HOST, host) for host in hosts.split(",")):
            raise UsageError(NO_URL)


Place = Path | Address


def place_of(typed: "str | Place") -> Place:
    """What was typed after ``--db``. Raises UsageError where nothing was, or a password."""
    if not isinstance(typed, str):
        return typed
    if not typed:
        raise UsageError("--db: there is no name")
    if typed.startswith((*SCHEMES, SERVICE)):
        return Address(typed)
    if PASSWORD.search(typed):
        raise UsageError(SHOWN)
    if ALMOST.match(typed):
        raise UsageError(NO_URL)
    return Path(typed)


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
