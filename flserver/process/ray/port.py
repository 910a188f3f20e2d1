"""Where a node's process on a Ray cluster listens, for whichever server: who comes while there is none waits."""

from flserver.network.listener import Listener, Reservation
from flserver.process.nodes.child import SharedListener


class KeptPort:
    """Listens at ``asked``, a host and a port, ``beside`` others or as the first one on its machine. Raises
    UsageError."""

    def __init__(self, host: str, port: int, *, beside: bool) -> None:
        self.asked = host, port
        self._reserved = None if beside else Reservation(host, port)
        there = self.asked if self._reserved is None else self._reserved.address
        self._listener = Listener(*there, beside=True)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._listener.address

    def shared(self) -> SharedListener:
        """For one server's node, which may free it."""
        return SharedListener(self._listener.socket.dup())

    def close(self) -> None:
        """Nobody is let in any more, and the port is free."""
        self._listener.close()
        if self._reserved is not None:
            self._reserved.close()
