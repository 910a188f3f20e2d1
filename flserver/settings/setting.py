"""What a setting is."""

from dataclasses import dataclass
from typing import Any, Literal

from flserver.errors import UsageError

Kind = Literal["str", "int", "float", "share", "path", "place", "bool", "tristate", "choice"]

CAP = "cap:"  # before a share: who has more counts for less, and is not refused


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option, of a server or a trainer; ``metavar`` is how ``--help`` calls its value.

    ``choices`` are the values of a ``choice``, ``minimum`` and ``maximum`` the bounds of a number, both included. A
    ``bool`` is a pair of flags (``--rejoin/--no-rejoin``). A ``tristate`` is a flag with an optional value: bare,
    ``True``, ``False`` and ``''`` mean what they say; left out means None. A ``share`` is a number, or ``cap:`` and a
    number. A ``place`` is a path, or an address in an object store.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def key(self) -> str:
        """The name as a Python identifier."""
        return self.name.replace("-", "_")


def defaults(settings: tuple[Setting, ...]) -> dict[str, Any]:
    """Every key with its default."""
    return {setting.key: setting.default for setting in settings}


def parse_tristate(value: str | bool | None) -> bool | None:
    """What the person meant by ``--use-cuda VALUE``.

    Raises UsageError for a word that is neither yes nor no.
    """
    if value is None or isinstance(value, bool):
        return value
    word = value.strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off", ""):
        return False
    raise UsageError(f"{value!r} is neither True nor False")
