"""What a server's metrics port says to a witness, over real HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flserver.errors import HeadError, NoHead, Rewritten
from flserver.heads.keys import PrivateKey, opened
from flserver.heads.note import WITNESS, Note
from flserver.observers.heads import BURST, CheckpointPage
from flserver.observers.http import MetricsServer
from flserver.observers.metrics import Metrics
from flserver.witness.keeping import Memory
from flserver.witness.watch import fetcher, look
from tests import facts
from tests.observers.observed_run import WELL
from tests.witness.log import KEY, Log

OWN = PrivateKey.generate("site", WITNESS)


class Shown:
    """A server's metrics port, and the log that it shows."""

    def __init__(self) -> None:
        self.log = Log()
        self.page = CheckpointPage(lambda since, head: self.log.fetch(since))
        self.server = MetricsServer("127.0.0.1", 0, Metrics({}), lambda: WELL, self.page)

    def grow(self, count: int) -> None:
        self.show(self.log.grow(count))

    def show(self, log: Log) -> None:
        self.log = log
        self.page.observe(facts.head_signed(size=len(log.leaves), note=log.fetch(None)))

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.server.address)


@pytest.fixture
def shown() -> Iterator[Shown]:
    found = Shown()
    found.server.start()
    yield found
    found.server.close()


def test_a_witness_follows_what_a_port_shows_and_finds_what_went_back(shown: Shown, tmp_path: Path) -> None:
    memory, fetch = Memory(tmp_path / "state"), fetcher(shown.url)

    def see() -> int | None:
        seen = look(fetch, KEY.public, OWN, memory, lambda: 1.0)
        return None if seen is None else opened(seen.cosigned, KEY.public).size

    with memory.held():
        with pytest.raises(NoHead, match=r"/checkpoint: answered 404: .*--sign-key"):
            see()
        shown.grow(3)
        assert see() == 3
        shown.grow(300)
        earlier = shown.log.forked()
        assert (see(), see()) == (303, None)
        shown.grow(1)
        assert see() == 304
        shown.show(earlier)
        with pytest.raises(Rewritten, match="went back: it had 304 events, and shows 303"):
            see()


def test_an_answer_that_is_none_is_said(shown: Shown) -> None:
    shown.grow(3)
    assert Note.parse(fetcher(f"{shown.url}/")(None)) == Note.parse(fetcher(f"{shown.url}/checkpoint")(None))
    with pytest.raises(NoHead, match="/nowhere: answered 404"):
        fetcher(f"{shown.url}/nowhere")(None)
    shown.log.fetch = lambda since: "x" * 200_000  # type: ignore[method-assign]
    with pytest.raises(HeadError, match="gave more than"):
        fetcher(shown.url)(3)
    busy = fetcher(shown.url)
    with pytest.raises(NoHead, match="answered 429: 'too many requests; one a minute does'"):
        [busy(None) for _ in range(2 * BURST)]
    shown.server.close()
    with pytest.raises(NoHead, match="refused"):
        fetcher(shown.url)(None)
