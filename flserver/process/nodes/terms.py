"""What a node is told first: which run it serves, with which settings, code of the operator's and clients."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field

from flserver.errors import UsageError
from flserver.identity.roster import Member, Roster
from flserver.process.own_code import IN_A_NODE, other_code
from flserver.settings import ServerSettings, server_settings


def no_roster() -> None:
    """Anybody may take part."""


@dataclass(frozen=True)
class Terms:
    """The server's. ``code`` has the digests of the operator's files that it has imported, by setting; ``clients``
    gives who is on the roster that is in force, if there is one."""

    settings: ServerSettings
    run_id: str
    code: Mapping[str, str] = field(default_factory=dict)
    clients: Callable[[], Iterable[Member] | None] = no_roster

    def agree_with(self, imported: Mapping[str, str | None]) -> bool:
        """Whether a process that has imported so much of the operator's code, as ``own_code.imported`` says, can be a
        node: what is imported stays in it."""
        specs = {key: self.settings.values[key] for key in IN_A_NODE}
        return all(imported[spec] == self.code.get(key) for key, spec in specs.items() if spec in imported)

    def told(self, name: str) -> bytes:
        """For the node of that name. Whether the server stood by before is nothing to it."""
        clients = self.clients()
        return json.dumps(
            {
                "values": {**self.settings.values, "standby": False},
                "run_id": self.run_id,
                "name": name,
                "code": dict(self.code),
                "clients": None if clients is None else list(map(asdict, clients)),
            },
            default=str,
        ).encode()


@dataclass(frozen=True)
class Told:
    """The node's."""

    settings: ServerSettings
    run_id: str
    name: str
    code: Mapping[str, str]
    roster: Roster | None

    @classmethod
    def read(cls, told: bytes | bytearray | memoryview) -> "Told":
        """What :meth:`Terms.told` gave. Raises UsageError for settings that cannot be."""
        values = json.loads(bytes(told))
        clients = values["clients"]
        return cls(
            settings=server_settings(values["values"]),
            run_id=values["run_id"],
            name=values["name"],
            code=values["code"],
            roster=None if clients is None else Roster([Member(**one) for one in clients]),
        )

    def check_code(self) -> None:
        """After the import: raises UsageError where the node has other code of the operator's than its server, whose
        models it would send to its trainers, or average, in another way."""
        if (other := other_code(self.settings, self.code)) is not None:
            raise UsageError(f"{other} is not what this run's server has imported: put that back, or resume the run")
