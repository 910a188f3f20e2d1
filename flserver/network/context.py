"""What all sessions share."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Event, Lock

from flserver.errors import ConnectionLost
from flserver.events.bus import Recorder
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.network.decoding import Decoding
from flserver.network.inherited import InheritedTrainer
from flserver.network.memory import ReceiveMemory, Room
from flserver.network.preamble import Preamble
from flserver.network.strangers import Strangers
from flserver.network.transport import Pace
from flserver.rounds.door import Door, Folds
from flserver.settings import Goodbye
from flserver.wire.layouts import Layouts
from flserver.wire.pickles import PickleLimits

# Of each client: one that is held for its turn, or hangs on a dead connection, and one that comes.
UPDATES_UNDER_WAY = 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one connection may use.

    ``json`` and ``pickle`` are the longest bodies (bytes). Memory is measured out for updates of ``usual`` bytes; up to
    ``kept`` may stay of a longer one, once what repeats is taken out of it. ``tensors`` is what a model's may hold
    together (bytes), ``pickles`` what reading one may take; reading an ordinary one takes ``ordinary`` opcodes at most,
    and ``weight`` bytes. ``first_frame`` (seconds) is for the first bytes, ``pace`` for the rest; ``peer_timeout``
    (seconds) is for a machine that does not answer any more.
    """

    json: int
    pickle: int
    usual: int
    kept: int
    tensors: int
    pickles: PickleLimits
    weight: int
    ordinary: int
    first_frame: float
    pace: Pace
    peer_timeout: float


@dataclass(kw_only=True)
class Context:
    """The parts of the server that a session uses.

    ``run_id`` is the run that trainers take part in, ``goodbye`` how they leave it where it stops in its middle.
    ``tied`` maps the later name of shared weights to the first one; ``buffers`` are tensors that are no parameters.
    ``accept_dtypes`` are taken where the model has
    float32. ``message_ids`` and ``update_ids`` give numbers unique in the database.

    Where it ``hands_on``, sessions of registered trainers end as soon as nothing is under way, and their connections
    are ``handed_on`` to whoever goes on with them.

    Trainers register while the model is being made. Until ``known`` is set, the limits that follow from it, ``tied``
    and ``buffers`` are not what they will be, and who needs them has to ``await_model``.
    """

    run_id: str
    goodbye: Goodbye
    exchange: Door
    folding: Folds
    recorder: Recorder
    strangers: Strangers
    memory: ReceiveMemory
    decoding: Decoding
    limits: Limits
    preamble: Preamble
    identity: Identity
    tied: Mapping[str, str]
    buffers: Collection[str]
    accept_dtypes: Collection[str]
    message_ids: Iterator[int]
    update_ids: Iterator[int]
    known: Event
    given_up: bool = False
    hands_on: bool = False
    handed_on: list[InheritedTrainer] = field(default_factory=list)
    handing: Lock = field(default_factory=Lock)  # guards the one above: who is on it is cut no more
    layouts: Layouts = field(default_factory=Layouts)

    def learn(self, limits: Limits, tied: Mapping[str, str], buffers: Collection[str]) -> None:
        """The model is made: what follows from it."""
        self.memory.expect(limits.usual)
        self.decoding.ordinary = limits.weight
        self.limits, self.tied, self.buffers = limits, tied, buffers
        self.known.set()

    def give_up(self) -> None:
        """There will be no model where there is none yet; who waits for it stops waiting."""
        self.given_up = not self.known.is_set()
        self.known.set()

    @property
    def has_model(self) -> bool:
        """Whether there is one."""
        return self.known.is_set() and not self.given_up

    def await_model(self) -> None:
        """Wait until the model is made. Raises ConnectionLost where it never is."""
        self.known.wait()
        if self.given_up:
            raise ConnectionLost("the server stopped before its model was made")

    def room(self, peer: Peer, length: int) -> Room:
        """Find room for ``length`` bytes of an upload of this peer.

        Raises IdentityRefused where nobody's upload can come from there, and NoRoom.
        """
        share = self.exchange.expect_upload(peer)
        return self.memory.take(length, share.owner, UPDATES_UNDER_WAY * share.clients * self.limits.kept)
