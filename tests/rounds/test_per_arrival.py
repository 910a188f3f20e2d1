"""What is kept so that an arrival costs the same among few clients and many, held against a walk over all of them."""

import math
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation.checks import Norms
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.rounds import Rounds
from flserver.rounds.exchange import Exchange
from flserver.rounds.join_window import JoinWindow
from flserver.rounds.model import CurrentModel
from flserver.rounds.norms import NormHistory
from flserver.rounds.seats import Seat, Upload
from flserver.rounds.updates import EndedAttempt, Ready, Submission, Updates
from flserver.settings import Enough
from tests.patience import PATIENCE
from tests.rounds.policies import policy
from tests.rounds.steps import PEER, join, started, uploaded

CLIENTS = "abcdefgh"
Moves = st.lists(
    st.tuples(st.sampled_from(["answer", "rejected", "suspect", "leave", "withdraw"]), st.sampled_from(CLIENTS)),
    max_size=30,
)


@given(Moves)
def test_who_is_awaited_and_whose_turn_it_is(moves: list[tuple[str, str]]) -> None:
    rounds, registrations = started(CLIENTS)
    attempt, updates, order = rounds.attempt, Updates(), []
    assert attempt is not None
    rounds.norms.history = NormHistory(3, Norms(1.0, 1.0))
    for number, (move, client) in enumerate(moves):
        seat = attempt.seats[client]
        upload = Upload(
            update_id=number,
            client_id=client,
            peer=PEER,
            accepted_at=2.0,
            digest=None,
            rejection="shape" if move == "rejected" else None,
            norms=Norms(1e9 if move == "suspect" else 1.0, 0.0),
        )
        if move == "leave":
            rounds.leave(registrations[client])
        elif not seat.answered:
            verdict = rounds.offer(upload, 2.0)
            if move == "withdraw":
                rounds.withdraw_answer(upload, verdict)
            else:
                rounds.confirm_answer(verdict)
                if verdict.counts:
                    updates.waiting[client] = Submission(upload, {}, (), lambda: None)
        assert attempt.awaits == bool(rounds.waited_for())
        assert attempt.suspected or not any(one.suspicion for one in attempt.seats.values())
        expected = turns(attempt.seats, updates)
        taken = [seat for seat, _ in updates.take_next(attempt)]
        assert all(seat.counts and not seat.pending for seat in taken)
        order += [seat.client_id for seat in taken]
        assert [client for client in order if client in expected] == expected
        assert order == sorted(order)
    rounds.end_attempt()
    rest = [seat for seat in attempt.seats.values() if seat.counts]
    updates.take_rest(rest)
    assert updates.taken.keys() == {seat.client_id for seat in rest}


def turns(seats: dict[str, Seat], updates: Updates) -> list[str]:
    """Whose turn is certain before suspects are settled anew: a walk from the first seat on."""
    ready = []
    for seat in seats.values():
        if seat.client_id in updates.taken or seat.decision == "rejected":
            continue
        if seat.client_id not in updates.waiting or seat.pending:
            break
        ready.append(seat.client_id)
    return ready


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd"), st.sampled_from(["10.0.0.1", "10.0.0.2"]))))
def test_who_registered_is_as_the_participants_have_it(moves: list[tuple[bool, str, str]]) -> None:
    rounds = Rounds(policy(), {"a": (10, 1)}, None, Identity("any"))
    there = {}
    for number, (comes, client, host) in enumerate(moves):
        if comes and client not in there:
            there[client] = rounds.register(client, 10, Peer(host=host, port=1), 0.0)
            rounds.confirm_registration(there[client])
        elif not comes and client in there:
            rounds.leave(there.pop(client))
        if number == 8:
            rounds.close_window()
            there = {known: one for known, one in there.items() if known in rounds.participants}
            break
        walked = {p.client_id: p.peer for p in rounds.participants.values() if p.peer is not None}
        assert dict(rounds.registered) == walked
        assert rounds.live == sum(p.live for p in rounds.participants.values())
        hosts = [p.peer.host for p in rounds.participants.values() if p.peer and p.standing != "absent"]
        assert (rounds.taken.in_all, rounds.taken.by_host) == (len(hosts), Counter(hosts))
        for at in ("10.0.0.1", "10.0.0.2"):
            assert rounds.registered.at(at) == {client for client, peer in walked.items() if peer.host == at}


def test_an_attempt_awaits_whom_an_answer_was_taken_back_from() -> None:
    rounds, _ = started("ab")
    assert rounds.attempt is not None
    for client in "ab":
        verdict = rounds.offer(uploaded(client), 2.0)
        rounds.confirm_answer(verdict)
    assert not rounds.attempt.awaits
    rounds.attempt.take_back(uploaded("a"))
    assert rounds.attempt.awaits


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd"))), st.sampled_from(["fixed", "sliding"]))
def test_when_a_join_window_closes_is_as_all_who_are_there_have_it(moves: list[tuple[bool, str]], kind: str) -> None:
    window = JoinWindow(policy(join_window=kind))
    there: dict[str, float] = {}
    first: dict[str, float] = {}
    for now, (comes, client) in enumerate(moves):
        if comes:
            window.take(client, now)
            there[client] = now
            first.setdefault(client, now)
        else:
            window.drop(client)
            there.pop(client, None)
        first = first if there else {}
        if not there:
            assert window.closes_at is None
            continue
        wait, began = policy().time_to_wait, min(there.values())
        latest = max(first[client] for client in there)
        assert window.closes_at == (began + wait if kind == "fixed" else min(latest + wait, began + 10 * wait))


class Counted(threading.Condition):
    """Counts how often those who wait are woken."""

    wakes = 0

    def notify_all(self) -> None:
        self.wakes += 1
        super().notify_all()


def test_nobody_is_woken_by_an_answer_that_is_folded_but_for_the_last() -> None:
    rounds = Rounds(policy(), {}, None, Identity())
    registrations = [join(rounds, client) for client in CLIENTS]
    rounds.close_window()
    exchange = Exchange(rounds, CurrentModel(0, {}, None))
    attempt = exchange.begin(1, 1)
    for registration in registrations:
        sent = rounds.send_to(registration)
        assert sent is not None
        sent.handed_over_at = 0.0
    exchange._changed = changed = Counted()
    ended: list[Ready | EndedAttempt] = []
    thread = threading.Thread(target=lambda: ended.append(exchange.take_ready(attempt, math.inf)))
    thread.start()
    for number, client in enumerate(CLIENTS):
        assert changed.wakes == 0
        submission = Submission(uploaded(client, update_id=number), {}, (), lambda: None)
        exchange.confirm_update(submission, exchange.offer(submission.upload), folded=True)
    thread.join(PATIENCE)
    assert changed.wakes == 1
    assert isinstance(ended[0], EndedAttempt)
    assert ended[0].updates.taken.keys() == set(CLIENTS)


@pytest.mark.parametrize("why", ["a suspect waits", "enough have answered", "it is over", "the run is to stop"])
def test_an_answer_wakes_who_has_something_to_do(why: str) -> None:
    goes_on = Enough(number=1) if why == "enough have answered" else None
    rounds = Rounds(policy(go_on_at=goes_on, grace=50.0, min_updates=1), {}, None, Identity())
    registrations = [join(rounds, client) for client in "ab"]
    rounds.close_window()
    exchange = Exchange(rounds, CurrentModel(0, {}, None))
    attempt = exchange.begin(1, 1)
    sent = rounds.send_to(registrations[0])
    assert sent is not None
    sent.handed_over_at = 0.0
    if why == "the run is to stop":
        exchange.stop("SIGTERM", grace=PATIENCE)
    exchange._changed = changed = Counted()
    submission = Submission(uploaded("a"), {}, (), lambda: None)
    verdict = exchange.offer(submission.upload)
    if why == "it is over":
        attempt.over = True
    exchange.confirm_update(submission, verdict, folded=why != "a suspect waits")
    assert changed.wakes == 1


def test_what_fails_at_a_node_is_raised_at_once_whoever_is_waited_for() -> None:
    rounds = Rounds(policy(), {}, None, Identity())
    join(rounds, "a")
    rounds.close_window()
    exchange = Exchange(rounds, CurrentModel(0, {}, None))
    attempt = exchange.begin(1, 1)
    exchange._changed = waits = Waits()
    raised: list[BaseException] = []

    def take() -> None:
        try:
            exchange.take_ready(attempt, math.inf)
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert waits.began.wait(PATIENCE)
    exchange.fail(ValueError("a defect"))
    thread.join(PATIENCE)
    assert list(map(str, raised)) == ["a defect"]


class Waits(threading.Condition):
    """Says that somebody waits, who has given the lock back before anybody else can have it."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.began.set()
        return super().wait(timeout)
