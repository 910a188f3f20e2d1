"""The registrations of one node, beside the exchange that sends them models."""

from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.ingest import told as t
from flserver.ingest.batches import from_bytes
from flserver.ingest.outbox import Outbox
from flserver.ingest.seated import Seated
from flserver.rounds import Rounds
from flserver.rounds.exchange import Exchange
from flserver.rounds.model import CurrentModel
from tests.patience import PATIENCE
from tests.rounds.policies import policy

PEER = Peer(host="10.0.0.1", port=1)


class Small:
    """A model that may be sent at once."""

    small = True


def test_who_leaves_while_a_model_is_published_is_sent_none() -> None:
    """Else an upload that comes later would answer a model that nobody was sent."""
    exchange, outbox = Exchange(Rounds(policy(), {}, None, Identity()), CurrentModel(0, {}, None)), Outbox()
    seated = Seated(exchange, outbox, lambda client: None)
    there, gone = (seated.register(client, 10, PEER) for client in "ab")
    for registration in (there, gone):
        seated.confirm(registration)
    exchange.close_window()
    attempt = exchange.begin(1, 1)
    next_model = exchange.next_model

    def slowly(registration: object) -> object:
        """It leaves between what the exchange says and what the node is told."""
        found = next_model(registration)  # type: ignore[arg-type]
        if registration == gone:
            seated.leave(gone, "closed")
        return found

    exchange.next_model = slowly  # type: ignore[assignment, method-assign]
    exchange.publish(Small())
    batch = outbox.take(PATIENCE)
    assert batch
    told = [item.said for item in from_bytes(batch)]
    assert [said.registration for said in told if isinstance(said, t.Ticket)] == [there]
    assert attempt.seats["b"].sent is not None
    assert attempt.seats["b"].sent.handed_over_at is None
