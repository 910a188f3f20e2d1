"""What a node on Ray is told, in order, until it is done."""

import threading

import pytest

from flserver.errors import StoreError
from flserver.ingest import inbox as inboxes
from flserver.ingest.inbox import Inbox
from tests.patience import PATIENCE


def test_what_is_told_is_done_in_order_and_telling_waits_where_too_much_is_left_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inboxes, "MOST_BATCHES", 2)
    inbox, told = Inbox(), list[bytes]()

    def tell() -> None:
        for batch in (b"1", b"2", b"3", b"4"):
            inbox.put(batch)
            told.append(batch)

    teller = threading.Thread(target=tell)
    teller.start()
    done = []
    for number in range(4):
        done.append(inbox.take())
        assert len(told) <= number + 3, "two wait, and one is being done"
    teller.join(PATIENCE)
    assert done == [b"1", b"2", b"3", b"4"]
    inbox.close()
    assert inbox.take() is None


def test_the_end_wakes_who_does_it_and_who_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "MOST_BATCHES", 1)
    inbox, refused = Inbox(), list[str]()
    inbox.put(b"1")

    def tell() -> None:
        try:
            inbox.put(b"2")
        except StoreError as error:
            refused.append(str(error))

    teller = threading.Thread(target=tell)
    teller.start()
    inbox.close()
    teller.join(PATIENCE)
    assert refused == ["what it is told is done by nobody any more"]
    assert inbox.take() is None, "not even what had been told"
    idle = Inbox()
    does = threading.Thread(target=idle.take)
    does.start()
    idle.close()
    does.join(PATIENCE)
    assert not does.is_alive()
