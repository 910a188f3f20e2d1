"""Trainers that hold a model of the run's earlier server: what their answers are, and who is sent what."""

import pytest

from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.rounds import Rounds
from flserver.rounds.seats import Attempt, Registration, SentModel, Upload
from tests.rounds.policies import policy

PEER = Peer(host="10.0.0.1", port=1)
MODEL = "of round 2"


def upload(client: str, number: int = 1, at: float = 2.0) -> Upload:
    return Upload(update_id=number, client_id=client, peer=PEER, accepted_at=at, digest=f"d{number}")


class Resumed:
    """The rules of a server whose run has committed round 2; each of ``holds`` has a model of that round's, if any, and
    the one with a digest where that is said."""

    def __init__(self, digest: str | None = MODEL, **holds: int | None) -> None:
        self.rounds = Rounds(policy(min_updates=1), dict.fromkeys(holds, (10, 1)), 1, Identity())
        self.there: dict[str, Registration] = {}
        for client, round in holds.items():
            self.come(client, None if round is None else SentModel(round, 1, inherited=True, digest=digest))
        self.rounds.close_window()

    def come(self, client: str, held: SentModel | None = None) -> None:
        """It registers, and holds that model."""
        self.there[client] = self.rounds.register(client, 10, PEER, 0.5, held)
        self.rounds.confirm_registration(self.there[client])

    def start(self, round: int, number: int, now: float) -> Attempt:
        attempt = self.begin(round, number, now)
        self.rounds.publish()
        return attempt

    def begin(self, round: int, number: int, now: float) -> Attempt:
        """An attempt whose model is not to be had yet."""
        self.rounds.inherit(round, MODEL)
        return self.rounds.start(round, number, now)

    def sent(self) -> set[str]:
        """Who is sent the running attempt's model."""
        return {client for client, there in self.there.items() if self.rounds.send_to(there) is not None}


def test_who_holds_the_rounds_model_is_not_sent_it_again_and_its_answer_counts() -> None:
    run = Resumed(a=3, b=None)
    assert run.rounds.quorum_possible()
    attempt = run.start(3, 2, 1.0)
    assert run.sent() == {"b"}
    verdict = run.rounds.offer(upload("a", at=0.5), 3.0)  # an accept that came before this server knew of it
    assert verdict.counts
    assert verdict.answers is not None
    assert (verdict.answers.round, verdict.answers.attempt, verdict.answers.digest) == (3, 2, MODEL)
    assert attempt.awaits  # b
    again = run.rounds.offer(upload("a", 2), 3.0)
    assert (again.decision, again.reason) == ("duplicate", "another update than the one that answered round 3")


def test_who_comes_with_it_in_the_middle_of_an_attempt_is_not_sent_it_in_the_next_one_either() -> None:
    run = Resumed(a=3, b=None)
    run.rounds.leave(run.there["a"])
    run.start(3, 2, 1.0)
    run.come("a", SentModel(3, 1, inherited=True, digest=MODEL))
    assert run.sent() == {"b"}
    run.rounds.end_attempt()
    run.start(3, 3, 2.0)
    assert run.sent() == set()
    verdict = run.rounds.offer(upload("a"), 3.0)
    assert (verdict.counts, verdict.answers and verdict.answers.attempt) == (True, 3)


def test_an_answer_before_the_attempt_is_late_and_then_the_model_is_sent() -> None:
    run = Resumed(a=3)
    early = run.rounds.offer(upload("a"), 0.5)
    assert (early.decision, early.reason) == ("late", "attempt 1 of round 3 is over")
    run.start(3, 2, 1.0)
    assert run.sent() == {"a"}


def test_an_answer_before_the_attempts_model_may_be_sent_is_late_and_then_it_is_sent() -> None:
    run = Resumed(a=3, b=3)
    attempt = run.begin(3, 2, 1.0)
    early = run.rounds.offer(upload("a"), 1.5)
    assert (early.decision, early.reason, early.arrived_round) == ("late", "attempt 1 of round 3 is over", 3)
    run.rounds.confirm_answer(early)
    run.rounds.publish()
    assert run.sent() == {"a"}
    assert attempt.recording == 0
    assert run.rounds.offer(upload("b", 2), 2.0).counts


def test_who_holds_another_rounds_model_owes_its_answer_first() -> None:
    run = Resumed(a=2, b=None)
    run.rounds.inherit(3, MODEL)
    assert [one.client_id for one in run.rounds.invitable()] == ["b"]
    attempt = run.start(3, 1, 1.0)
    assert attempt.not_sent == {"a": "it owes the answer to round 2"}
    late = run.rounds.offer(upload("a"), 2.0)
    assert (late.decision, late.answers and late.answers.round) == ("late", 2)
    run.rounds.end_attempt()
    run.start(3, 2, 3.0)
    assert run.sent() >= {"a"}


def test_who_holds_the_rounds_model_of_another_history_owes_its_answer_first() -> None:
    """As where a database's standby lacks the last commits, or a backup was restored."""
    run = Resumed("another round 2", a=3, b=None)
    attempt = run.start(3, 2, 1.0)
    assert (run.sent(), set(attempt.not_sent)) == ({"b"}, {"a"})
    assert run.rounds.offer(upload("a"), 2.0).decision == "late"


@pytest.mark.parametrize("holds", [2, 3])
def test_who_registers_again_by_itself_holds_nothing(holds: int) -> None:
    run = Resumed(a=holds)
    run.rounds.leave(run.there["a"])
    run.come("a")
    run.start(3, 2, 1.0)
    assert run.sent() == {"a"}
