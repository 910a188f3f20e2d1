"""A desk by itself, and a node that says what a test lets it say."""

from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.ingest.batches import Item, from_bytes, to_bytes
from flserver.ingest.desk import Desk
from flserver.ingest.ids import Ids
from flserver.ingest.place import Place
from flserver.rounds import Rounds
from flserver.rounds.exchange import Exchange
from flserver.rounds.model import CurrentModel
from tests.patience import PATIENCE
from tests.recorder import RecordingRecorder
from tests.rounds.policies import policy

PEER = Peer(host="10.0.0.1", port=1)


def names(desk: Desk) -> list[str]:
    """The nodes that there are."""
    return [place.name for place in desk._places]


class AtDesk:
    """A desk with one node that says what a test lets it say."""

    def __init__(self) -> None:
        self.recorder = RecordingRecorder()
        self.exchange = Exchange(Rounds(policy(), {}, None, Identity()), CurrentModel(0, {}, None))
        first = Ids({"message_id": 1, "connection_id": 1, "update_id": 7})
        self.desk = Desk(self.exchange, self.recorder, first)
        self.place: Place = self.desk.open("node-1")

    def __enter__(self) -> "AtDesk":
        return self

    def __exit__(self, *_: object) -> None:
        self.place.gone("the test is over")
        self.place.join()
        self.desk.close(0.0, PATIENCE)

    def say(self, *items: Item) -> None:
        self.place.give(to_bytes(items))

    def answers(self, count: int) -> list[Item]:
        """The next answers, whatever is rung between them."""
        found: list[Item] = []
        while len(found) < count:
            batch = self.place.take(PATIENCE)
            assert batch
            found += [item for item in from_bytes(batch) if item.number is not None]
        return found
