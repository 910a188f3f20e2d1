"""Participants that hold rounds up, keep the join window busy, take all places, or call themselves like others: beside
each of them honest trainers finish their rounds."""

import contextlib
import pickle
import socket
from collections.abc import Callable
from itertools import pairwise
from time import monotonic

import torch

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, PeerAt, ServerProcess, send
from tests.e2e.hostile.costs import LOOKALIKES
from tests.e2e.unattacked import ROUNDS as TURNS
from tests.e2e.unattacked import digests, honest_round, honest_rounds
from tests.patience import DEADLINE, PATIENCE, eventually

Join = Callable[..., list[Peer]]
HOME, CROWD, CROWD_TOO = "127.0.0.1", "127.0.0.2", "127.0.0.3"
WINDOW = 0.2  # seconds


class TurnTaker:
    """A client that never answers in time. Once it has held a round up it answers late, or registers again."""

    def __init__(self, server: ServerProcess, client_id: str, way: str) -> None:
        self._server, self._client_id, self._way = server, client_id, way
        self.peer = Peer(server, client_id).join()

    def after(self, round: int) -> None:
        """A round is committed: what it missed it makes good in its way, before the next one is over."""
        missed = "SELECT 1 FROM v1_client_rounds WHERE client_id = ? AND round = ? AND participation = 'timed_out'"
        if not self._server.sql(missed, self._client_id, round):
            return
        if self._way == "late":
            self.peer.answer(1e6)
        else:
            self.peer.connection.close()
            eventually(self._again)

    def _again(self) -> bool:
        self.peer = Peer(self._server, self._client_id)
        if self.peer.register()["header"] == "<SUCCESS>":
            return True
        self.peer.connection.close()  # the server has not seen the end of the other connection yet
        return False


def test_two_that_take_turns_hold_fewer_and_fewer_rounds_up(start: Start, join: Join, alone: list[str]) -> None:
    """One answers late, one leaves and registers again; a third is let go because it speaks out of turn."""
    server = start("--num-rounds", str(TURNS), "--min-clients", "5", "--round-timeout", str(DEADLINE), *FAST)
    a, b, rude = join(server, "a", "b", "rude")
    late, again = TurnTaker(server, "late", "late"), TurnTaker(server, "again", "again")
    rude.model()
    rude.connection.sendall(b"hello, server")
    for number in range(TURNS):
        honest_round(a, b, number)
        server.wait_for_line(f"round {number + 1}/{TURNS} committed")
        for taker in (late, again):
            taker.after(number + 1)
    for peer in (a, b):
        peer.finished()
    for taker in (late, again):
        taker.peer.connection.close()
    assert server.exit_code() == 0
    assert "Traceback" not in server.log
    timed_out = "SELECT COUNT(*) FROM v1_client_rounds WHERE participation = 'timed_out' GROUP BY client_id"
    assert [held <= 2 for (held,) in server.sql(timed_out)] == [True, True], "of five: at 1 and 3"
    assert server.sql("SELECT left_reason FROM v1_clients WHERE client_id = 'rude'") == [("protocol",)]
    reasons = server.sql("SELECT reason FROM v1_client_rounds WHERE participation = 'not_sent'")
    assert ("it held up 2 rounds: invited again from round 6 on",) in reasons
    accepted = "SELECT client_id, COUNT(*) FROM v1_updates WHERE decision = 'accepted' GROUP BY 1"
    assert server.sql(accepted) == [("a", TURNS), ("b", TURNS)]
    assert digests(server) == alone


def test_who_sits_out_is_asked_where_a_round_would_not_have_its_quorum(
    start: Start, join: Join, alone: list[str]
) -> None:
    """The others would be enough, but one of them has left: it is invited at once, and answers."""
    server = start("--num-rounds", "3", "--min-clients", "3", "--min-updates", "2", *FAST)
    a, c, b = join(server, "a", "c", "b")
    b.model()
    b.connection.sendall(b"hello, server")
    server.wait_for_line("client b left: protocol")
    with Peer(server, "b").join() as back:
        c.answer(0.75)
        c.connection.close()
        server.wait_for_line("client c left: closed")
        a.answer(0.25)
        for number in (1, 2):
            honest_round(a, back, number)
        for peer in (a, back):
            peer.finished()
    assert server.exit_code() == 0
    rows = "SELECT round, attempt, participation FROM v1_client_rounds WHERE client_id = 'b' ORDER BY 1, 2"
    assert server.sql(rows) == [(1, 1, "dropped"), (2, 1, "answered"), (3, 1, "answered")]
    assert digests(server) == alone[:4]


def test_a_round_goes_on_without_the_rest_and_nobody_is_called_like_another(
    start: Start, join: Join, alone: list[str]
) -> None:
    server = start("--num-rounds", "2", "--min-clients", "3", "--go-on-at", "0.5", "--grace", "0.2", *FAST)
    a, b = join(server, "a", "b")
    for client_id, why in LOOKALIKES.items():
        with Peer(server, client_id) as peer:
            assert peer.register()["msg"].endswith(f" is not a client id: {why}")
    (slow,) = join(server, "slow")
    model = slow.model()
    for client_id in LOOKALIKES:
        Peer.upload(PeerCalled(server, client_id), model)
    honest_rounds(a, b, 2)  # the deadline is an hour away
    assert server.exit_code() == 0
    rows = server.sql("SELECT round, participation, reason FROM v1_client_rounds WHERE client_id = 'slow' ORDER BY 1")
    assert rows == [(1, "timed_out", None), (2, "not_sent", "it owes the answer to round 1")]
    assert server.sql("SELECT DISTINCT client_id FROM v1_clients ORDER BY 1") == [("a",), ("b",), ("slow",)]
    refused = "SELECT header, COUNT(*) FROM v1_messages WHERE reason LIKE '%is not a client id%' GROUP BY 1 ORDER BY 1"
    assert server.sql(refused) == [("<METADATA>", len(LOOKALIKES)), ("<MODEL>", len(LOOKALIKES))]
    assert digests(server) == alone[:3]


class PeerCalled(Peer):
    """One that only uploads."""

    def __init__(self, server: ServerProcess, client_id: str) -> None:
        self.port, self.client_id = server.port, client_id


def test_who_leaves_before_the_window_closes_was_not_there(start: Start) -> None:
    """Before the first trainer came, beside it, and under its name."""
    server = start("--num-rounds", "1", "--time-to-wait", str(DEADLINE), "--rejoin-timeout", "3600")
    visits = "SELECT 1 FROM v1_clients WHERE left_at NOT NULL LIMIT 1 OFFSET ?"
    with PeerAt(server, "a", CROWD).join(), Peer(server, "first").join():
        pass
    server.wait_for_sql(visits, 1)
    with Peer(server, "a").join() as a:
        with Peer(server, "second").join():
            pass
        server.wait_for_line(
            r"a round needs 1 update \(--min-updates; 1 by default where one client alone was there\)$"
        )
        model = a.model()
        for visitor in ("first", "second"):
            with Peer(server, visitor) as back:
                assert "already started the training" in back.register()["msg"]
        a.upload(model)
        a.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT DISTINCT client_id FROM v1_client_rounds") == [("a",)]
    assert server.sql("SELECT registration FROM v1_clients WHERE client_id = 'a'") == [(1,), (2,)]


def test_registrations_that_keep_coming_do_not_keep_the_window_open(start: Start, alone: list[str]) -> None:
    """Each is another client's: a sliding window would wait for ever. They hold no round up, for two have answered."""
    options = ("--join-window", "sliding", "--time-to-wait", str(WINDOW), "--min-updates", "2", "--go-on-at", "2")
    server = start("--num-rounds", "2", *options)
    with Peer(server, "a").join() as a, contextlib.ExitStack() as stack:
        came, times = 0, [monotonic()]
        b = stack.enter_context(Peer(server, "b").join())
        while (answer := stack.enter_context(Peer(server, f"new {came}")).register())["header"] == "<SUCCESS>":
            came += 1
            times.append(monotonic())
        gaps = [after - before for before, after in pairwise([*times, monotonic()])]
        assert came > 3 or max(gaps) > WINDOW / 2, "on a machine that slow it has slid shut"
        assert "already started the training" in answer["msg"]
        honest_rounds(a, b, 2)
    assert server.exit_code() == 0
    ((registered,),) = server.sql("SELECT COUNT(*) FROM v1_clients")
    assert registered == came + 2
    assert digests(server) == alone[:3]


def test_a_crowd_that_takes_every_place_reaches_nobodys_upload(start: Start, join: Join, alone: list[str]) -> None:
    """Registrations of one address, then of another; silent connections, half uploads, and whole ones of both."""
    limits = ("--max-connections", "24", "--max-connections-per-address", "16")
    # The window has to be open when the crowd is refused.
    window = ("--join-window", "sliding", "--time-to-wait", str(DEADLINE))
    server = start("--num-rounds", "2", "--min-clients", "12", "--go-on-at", "2", *limits, *window)
    a, b = join(server, "a", "b")
    with contextlib.ExitStack() as stack:
        answers = []
        for host, count in ((CROWD, 12), (CROWD_TOO, 4)):
            for number in range(count):
                peer = stack.enter_context(PeerAt(server, f"{host} {number}", host))
                answers.append(peer.register()["msg"])
        refused = [answer for answer in answers if not answer.startswith("Registered")]
        assert refused[:4] == [f"The server is full for {CROWD}: an address has places for 8 clients"] * 4
        assert refused[4:] == ["The server is full: it has places for 12 clients"] * 2
        body = a.body(model := a.model())
        unreadable = [pickle.dumps({"header": "<MODEL>", "id": f"{CROWD} {n}", "model": [n] * 100}) for n in range(8)]
        for said in (b"", b"\0" * 7, len(body).to_bytes(8, "big") + body[:3000]):
            for host in (CROWD, CROWD_TOO) * 12:
                with contextlib.suppress(OSError):
                    more = socket.create_connection((HOME, server.port), PATIENCE, (host, 0))
                    stack.enter_context(more).sendall(said)
        with contextlib.suppress(OSError):
            for upload in unreadable * 3:
                more = stack.enter_context(socket.create_connection((HOME, server.port), PATIENCE, (CROWD, 0)))
                send(more, upload)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.25)
        a.upload(model)
        b.answer(0.75)
        a.answer(1.25)
        b.answer(0.75)
        for peer in (a, b):
            peer.finished()
    assert server.exit_code() == 0
    assert "Traceback" not in server.log
    said = "The server is full: it has places for 12 clients; registered are 8 from 127.0.0.2, 2 from 127.0.0.1, 2 from"
    assert len(server.sql("SELECT 1 FROM v1_messages WHERE reason LIKE ?", f"{said}%")) == 2
    honest = "SELECT DISTINCT close_reason FROM v1_connections WHERE peer_host = '127.0.0.1' ORDER BY 1"
    assert server.sql(honest) == [("closed",), ("finished",)]
    assert digests(server) == alone[:3]
