"""What is kept so that an arrival costs the same among few clients and many, held against a walk over all of them."""

from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation.checks import Norms
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.rounds import Rounds
from flserver.rounds.norms import NormHistory
from flserver.rounds.seats import Seat, Upload
from flserver.rounds.updates import Submission, Updates
from tests.rounds.policies import policy
from tests.rounds.steps import PEER, started, uploaded

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
