"""What goes on record of an ingest node when it begins: which process it is, on which machine, and made of what."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from flserver.events import NodeStarted
from flserver.process.provenance import provenance


@dataclass(frozen=True, kw_only=True)
class About:
    """A node's process: where it is, and what it is made of, as ``provenance`` has it."""

    host: str
    pid: int
    code: Mapping[str, str]
    libraries: Mapping[str, str]
    cpu: str

    @classmethod
    def of_this(cls) -> "About":
        """This process; or one that it starts now, but for its ``pid``. Raises OSError where sources cannot be read."""
        return cls(host=socket.gethostname(), pid=os.getpid(), **vars(provenance({})))

    def starts(self, name: str, slot: int, host: str, port: int) -> NodeStarted:
        """It becomes the node of that name, and listens there."""
        return NodeStarted(node=name, slot=slot, listen_host=host, listen_port=port, **vars(self))
