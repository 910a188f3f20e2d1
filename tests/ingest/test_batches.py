"""What nodes and desk say survives the way through bytes, and what is none of it is refused."""

import math

import pytest
import torch

from flserver.identity.peer import Certificate, Peer
from flserver.ingest.batches import BatchError, Item, from_bytes, of_state, raw_of, state_like, to_bytes, to_state
from flserver.ingest.questions import Answers, Decided, Done, Offer, Register, Registered
from flserver.ingest.told import Confirmed, Model, Ticket
from flserver.models.norms import Norms
from flserver.rounds.seats import Registration
from flserver.wire.messages import Measurement

CERTIFICATE = Certificate(subject="CN=a", common_name=None, fingerprint="sha256:00")
PEER = Peer(host="::1", port=4, proxy_host="10.0.0.1", transport="tls", certificate=CERTIFICATE)
ANA = Registration("Ana \udcff", 2, True)


def through(*items: Item) -> list[Item]:
    return from_bytes(to_bytes(items))


def test_what_is_said_arrives_as_it_was() -> None:
    said = [
        Item(Register("Ana", 3, PEER), 7),
        Item(Registered(ANA), 8),
        Item(Offer(5, "Ana", Peer(host="h", port=1), 9, None, None, Norms(1.0, 2.0), -0.5, 3), 9),
        Item(Decided(None, None, Answers(1, 2, 0.5), 10, 4, 9, True), 10),
        Item(Ticket(ANA, 1, 1, 4, False)),
        Item(Done(), 11),
    ]
    assert through(*said) == said


def test_numbers_that_clients_report_may_be_none_that_json_has() -> None:
    measured = (
        Measurement(name="loss", measured_on="received", value=math.inf),
        Measurement(name="a", measured_on="trained", value=math.nan),
    )
    (item,) = through(Item(Confirmed(1, True, measured, "blake3:aa")))
    assert isinstance(item.said, Confirmed)
    assert item.said.metrics[0] == measured[0]
    assert math.isnan(item.said.metrics[1].value)


def test_tensors_lie_in_the_batch_as_they_are() -> None:
    state = {"w": torch.randn(3, 5), "none": torch.empty(0, 2), "n": torch.tensor(4), "half": torch.ones(3).half()}
    (item,) = through(Item(Model(2, raw_of(state), raw_of(state))))
    assert isinstance(item.said, Model)
    for blobs in (item.said.blobs, item.said.before):
        found = state_like(state, blobs)
        assert list(found) == list(state)
        assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)
    with pytest.raises(BatchError, match="another layout"):
        state_like({"w": state["w"]}, item.said.blobs)


def test_a_state_says_its_own_layout() -> None:
    state = {"bins": torch.arange(6).view(3, 2), "none": torch.empty(3, 0, dtype=torch.int64), "f": torch.ones(2)}
    found = to_state(of_state(state))
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)


@pytest.mark.parametrize(
    "batch", [b"", b"\0" * 8, to_bytes([Item(Done())])[:-1], (9).to_bytes(8, "big") + b'[["os",1]', b"\xff" * 20]
)
def test_what_is_no_batch_is_refused(batch: bytes) -> None:
    with pytest.raises(BatchError):
        from_bytes(batch)


def test_a_blob_that_is_cut_off_is_refused() -> None:
    whole = to_bytes([Item(Model(1, (memoryview(b"12345678"),)))])
    with pytest.raises(BatchError, match="ends early"):
        from_bytes(whole[:-1])
