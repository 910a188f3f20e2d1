"""The session of a trainer that an earlier server of the run has left: it goes on where that one was."""

from collections.abc import Callable, Generator

from flserver.network.context import Context
from flserver.network.inherited import InheritedTrainer
from flserver.network.registration import RegisteredTrainer
from flserver.network.session import Session
from flserver.rounds.door import Awaited


class InheritedSession(Session):
    """As any other, but that its peer has said already who it is and what it wants: it is registered again, on a
    connection that it does not know is another one to us."""

    def __init__(
        self,
        trainer: InheritedTrainer,
        connection_id: int,
        context: Context,
        take_place: Callable[[Session], None],
        leave: Callable[[Session], None],
    ) -> None:
        super().__init__(trainer.channel.sock, trainer.peer, connection_id, context, take_place, leave=leave)
        self._trainer = trainer
        self._channel = self._connection.channel = trainer.channel  # with what it has of TLS
        self._channel.before_wait = lambda: leave(self)
        self._connection.conversation = trainer.conversation
        self._record.inherited_from = trainer.connection_id

    @property
    def silent(self) -> bool:
        return False

    def _identify(self) -> None:
        self._take_place(self)
        if self.peer.certificate is not None or self.peer.proxy_host is not None:
            self._record.identified(self.peer)
        else:
            self._record.come_from(self.peer)

    def _serve(self) -> Generator[Awaited, None, str]:
        self._channel.before_wait()
        yield from ()  # no decision is awaited
        return RegisteredTrainer(self._connection).go_on(self._trainer)
