"""Trainers that stay where their server goes: on a node, which outlives it, the run's next server goes on with them."""

from dataclasses import dataclass

from flserver.identity.peer import Peer
from flserver.network.channel import Channel
from flserver.rounds import SentModel
from flserver.wire.messages import Metadata
from flserver.wire.protocol import Conversation


@dataclass(frozen=True, kw_only=True)
class InheritedTrainer:
    """The first connection of a trainer that nothing is under way on: whose it is, what it registered with, where its
    conversation stands, under which number it is on record, and the model that the trainer ``holds``, if it was sent
    one."""

    channel: Channel
    peer: Peer
    metadata: Metadata
    conversation: Conversation
    connection_id: int
    holds: SentModel | None

    def close(self) -> None:
        """Nobody goes on with it."""
        self.channel.close()


class HandedOn(Exception):
    """Ends the session of a trainer, and not its connection."""

    def __init__(self, trainer: InheritedTrainer) -> None:
        super().__init__("the next server goes on with it")
        self.trainer = trainer
