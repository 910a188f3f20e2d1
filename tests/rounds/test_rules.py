"""The rules of a round, with the clock as a number."""

import pytest

from flserver.errors import RegistrationRefused
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.rounds import Rounds
from tests.rounds.policies import policy
from tests.rounds.steps import PEER, answer, begin, join, offer, started, uploaded


class TestJoinWindow:
    def test_a_fixed_window_counts_from_the_first_registration(self) -> None:
        rounds = Rounds(policy(), {}, None, Identity())
        assert rounds.window.closes_at is None
        join(rounds, "1", now=5.0)
        join(rounds, "2", now=14.0)
        assert not rounds.window_over(14.9)
        assert rounds.window_over(15.0)

    def test_a_sliding_window_counts_from_the_latest_registration(self) -> None:
        rounds = Rounds(policy(join_window="sliding"), {}, None, Identity())
        join(rounds, "1", now=5.0)
        join(rounds, "2", now=14.0)
        assert not rounds.window_over(23.9)
        assert rounds.window_over(24.0)

    def test_one_that_comes_again_does_not_keep_a_sliding_window_open(self) -> None:
        rounds = Rounds(policy(join_window="sliding"), {}, None, Identity())
        join(rounds, "1", now=5.0)
        rounds.leave(join(rounds, "2", now=6.0))
        join(rounds, "2", now=14.0)
        assert rounds.window_over(16.0)

    def test_it_says_how_many_it_is_short_of_once_its_time_is_up(self) -> None:
        rounds = Rounds(policy(min_clients=3), {}, None, Identity())
        join(rounds, "1")
        assert [rounds.window_stage(now).short for now in (9.9, 10.0)] == [0, 2]

    @pytest.mark.parametrize("needs", [{"min_clients": 2}, {"min_updates": 2}])
    def test_it_stays_open_until_enough_are_in(self, needs: dict[str, int]) -> None:
        rounds = Rounds(policy(**needs), {}, None, Identity())
        join(rounds, "1")
        assert not rounds.window_over(1000.0)
        join(rounds, "2", now=1000.0)
        assert rounds.window_over(1000.0)

    def test_it_waits_for_a_registration_that_is_not_on_record_yet(self) -> None:
        rounds = Rounds(policy(), {}, None, Identity())
        join(rounds, "1")
        half = rounds.register("2", 10, PEER, 1.0)
        assert not rounds.window_over(11.0)
        rounds.confirm_registration(half)
        assert rounds.window_over(11.0)

    def test_a_newcomer_after_it_is_refused_in_the_fleets_words(self) -> None:
        rounds, _ = started()
        with pytest.raises(RegistrationRefused, match=r"already started the training\. You cannot participate now"):
            rounds.register("z", 10, PEER, 2.0)

    @pytest.mark.parametrize(("clients", "quorum"), [("a", 1), ("ab", 2), ("abc", 2)])
    def test_it_settles_the_quorum(self, clients: str, quorum: int) -> None:
        assert started(clients)[0].min_updates == quorum

    def test_an_explicit_quorum_and_that_of_an_earlier_process_stay(self) -> None:
        assert started("a", min_updates=1)[0].min_updates == 1
        resumed = Rounds(policy(), {"a": (10, 1), "b": (10, 1)}, 2, Identity())
        join(resumed, "a")
        assert resumed.close_window() == 2


class TestRegistration:
    def test_an_id_whose_connection_lives_is_refused(self) -> None:
        rounds = Rounds(policy(), {}, None, Identity())
        rounds.register("1", 10, PEER, 0.0)
        with pytest.raises(RegistrationRefused, match="alive"):
            rounds.register("1", 10, PEER, 0.0)

    def test_a_participant_that_died_rejoins_from_the_next_attempt(self) -> None:
        rounds, registrations = started()
        rounds.leave(registrations["a"])
        again = join(rounds, "a", now=5.0)
        assert (again.number, again.rejoined) == (2, True)
        assert rounds.send_to(again) is None
        assert rounds.start(1, 2, 6.0).seats.keys() == {"a", "b", "c"}

    def test_one_that_has_left_is_sent_no_model(self) -> None:
        rounds = Rounds(policy(), {}, None, Identity())
        gone, there = join(rounds, "a"), join(rounds, "b")
        rounds.close_window()
        rounds.start(1, 1, 1.0)
        rounds.leave(gone)
        assert rounds.send_to(gone) is None
        assert rounds.send_to(there) is not None

    def test_not_with_no_rejoin(self) -> None:
        rounds, registrations = started(rejoin=False)
        rounds.leave(registrations["a"])
        with pytest.raises(RegistrationRefused):
            rounds.register("a", 10, PEER, 5.0)

    def test_a_participant_from_before_a_resume_may_come_after_the_window(self) -> None:
        rounds = Rounds(policy(), {"a": (10, 3)}, 2, Identity())
        join(rounds, "b")
        rounds.close_window()
        assert join(rounds, "a").number == 4

    def test_leaving_an_old_connection_does_not_end_the_new_one(self) -> None:
        rounds, registrations = started()
        rounds.leave(registrations["a"])
        join(rounds, "a")
        rounds.leave(registrations["a"])
        assert [p.client_id for p in rounds.invitable()] == ["a", "b", "c"]

    def test_nobody_registers_after_the_end(self) -> None:
        rounds, registrations = started()
        rounds.leave(registrations["a"])
        rounds.finish("The run is over")
        with pytest.raises(RegistrationRefused, match="over"):
            rounds.register("a", 10, PEER, 5.0)


class TestWhoseAnswer:
    def test_the_first_answer_counts_and_a_second_is_a_duplicate(self) -> None:
        rounds, _ = started()
        first, second = answer(rounds, "a"), answer(rounds, "a")
        assert first.decision is None
        assert first.answers is not None
        assert (second.decision, second.answers) == ("duplicate", None)

    def test_a_connection_from_before_the_model_was_sent_cannot_answer_it(self) -> None:
        rounds, _ = started()
        early = answer(rounds, "a", at=0.9)
        assert (early.decision, early.answers) == ("duplicate", None)
        assert answer(rounds, "a", at=1.0).decision is None

    def test_while_the_model_is_being_sent_nothing_answers_it(self) -> None:
        rounds, registrations = started()
        rounds.end_attempt()
        rounds.start(1, 2, 5.0)
        answer(rounds, "a", at=5.0)  # the late one
        rounds.end_attempt()
        rounds.start(1, 3, 7.0)
        assert rounds.send_to(registrations["a"]) is not None
        assert answer(rounds, "a", at=8.0).decision == "duplicate"

    def test_an_answer_after_its_attempt_is_late_also_while_the_round_is_tried_again(self) -> None:
        rounds, registrations = started()
        for client in "bc":
            answer(rounds, client)
        rounds.end_attempt()
        begin(rounds, registrations, round=1, number=2, now=200.0)
        late = answer(rounds, "a", at=201.0)
        assert late.decision == "late"
        assert late.answers is not None
        assert (late.answers.round, late.answers.attempt, late.arrived_round) == (1, 1, 1)

    def test_between_attempts_it_arrives_in_no_round(self) -> None:
        rounds, _ = started()
        rounds.end_attempt()
        assert answer(rounds, "a", at=150.0).arrived_round is None

    def test_registering_again_clears_the_count(self) -> None:
        rounds, registrations = started()
        rounds.leave(registrations["a"])
        join(rounds, "a")
        assert answer(rounds, "a").decision == "duplicate"

    def test_an_upload_that_still_arrives_after_the_connection_closed_counts(self) -> None:
        rounds, registrations = started()
        rounds.leave(registrations["a"])
        assert answer(rounds, "a").decision is None

    def test_a_rejected_update_answers_its_model(self) -> None:
        rounds, _ = started()
        assert answer(rounds, "a", rejection="shape: w").decision == "rejected"
        assert answer(rounds, "a").decision == "duplicate"

    @pytest.mark.parametrize("rejection", [None, "shape: w"])
    def test_one_that_could_not_be_put_on_record_answers_nothing(self, rejection: str | None) -> None:
        rounds, _ = started("ab")
        answer(rounds, "b", update_id=7)
        verdict = offer(rounds, "a", rejection=rejection, update_id=8)
        rounds.withdraw_answer(uploaded("a", update_id=8), verdict)
        assert not rounds.attempt_over(2.0)
        assert answer(rounds, "a", update_id=9).decision is None
        assert rounds.attempt_over(2.0)
        assert [result.seat.update_id for result in rounds.end_attempt()] == [9, 7]

    def test_a_late_one_or_a_duplicate_that_could_not_be_put_on_record_does_not_touch_what_runs(self) -> None:
        rounds, _ = started("ab")
        first = answer(rounds, "a", update_id=7)
        again = offer(rounds, "a", update_id=8, digest="blake3:01")
        rounds.withdraw_answer(uploaded("a", update_id=8, digest="blake3:01"), again)
        rounds.end_attempt()
        rounds.start(1, 2, 102.0)
        late = offer(rounds, "b", at=103.0, update_id=9)
        rounds.withdraw_answer(uploaded("b", update_id=9), late)
        assert (first.decision, again.decision, late.decision) == (None, "duplicate", "late")
        assert rounds.attempt is not None
        assert rounds.attempt.recording == 0
        assert answer(rounds, "b", at=104.0).decision == "late", "its model is unanswered again"

    def test_what_could_not_be_put_on_record_is_not_given_to_who_registered_again_meanwhile(self) -> None:
        rounds, registrations = started()
        verdict = offer(rounds, "a")
        rounds.leave(registrations["a"])
        join(rounds, "a")
        rounds.withdraw_answer(uploaded("a"), verdict)
        assert answer(rounds, "a").decision == "duplicate"

    def test_an_unknown_client_is_refused(self) -> None:
        rounds, _ = started()
        with pytest.raises(RegistrationRefused, match="not registered"):
            answer(rounds, "z")


class TestTheEndOfAnAttempt:
    def test_when_everyone_answered(self) -> None:
        rounds, _ = started()
        for client in "abc":
            assert not rounds.attempt_over(2.0)
            answer(rounds, client)
        assert rounds.attempt_over(2.0)

    def test_not_before_the_last_answer_is_on_record(self) -> None:
        rounds, _ = started("a")
        verdict = offer(rounds, "a")
        assert not rounds.attempt_over(500.0)
        rounds.confirm_answer(verdict)
        assert rounds.attempt_over(2.0)

    def test_at_the_deadline(self) -> None:
        rounds, _ = started()
        assert not rounds.attempt_over(100.9)
        assert rounds.attempt_over(101.0)

    def test_a_drop_out_is_not_waited_for(self) -> None:
        rounds, registrations = started()
        answer(rounds, "a")
        answer(rounds, "b")
        rounds.leave(registrations["c"])
        assert rounds.attempt_over(2.0)

    def test_says_what_became_of_each(self) -> None:
        rounds, registrations = started("abcd")
        answer(rounds, "a")
        answer(rounds, "b", rejection="names: x")
        rounds.leave(registrations["c"])
        ended = {result.seat.client_id: result.participation for result in rounds.end_attempt()}
        assert ended == {"a": "answered", "b": "answered", "c": "dropped", "d": "timed_out"}

    def test_who_missed_the_deadline_owes_an_answer_until_it_comes(self) -> None:
        rounds, registrations = started()
        rounds.end_attempt()
        answer(rounds, "a", at=150.0)
        begin(rounds, registrations, round=1, number=2, now=200.0)
        assert rounds.attempt is not None
        assert rounds.attempt.seats.keys() == {"a"}
        assert rounds.attempt.not_sent == dict.fromkeys("bc", "it owes the answer to round 1")

    def test_or_until_it_registered_again(self) -> None:
        rounds, registrations = started()
        rounds.end_attempt()
        rounds.leave(registrations["b"])
        join(rounds, "b")
        assert [p.client_id for p in rounds.invitable()] == ["b"]
        assert not rounds.quorum_possible()

    def test_nobody_owes_an_answer_to_an_attempt_that_was_stopped(self) -> None:
        rounds, _ = started()
        assert {result.participation for result in rounds.end_attempt(stopped=True)} == {"cut_short"}
        assert rounds.quorum_possible()

    def test_a_share_is_an_addresss_and_on_this_machine_a_clients(self) -> None:
        """Three clients of one address have 300 of 400 samples; from loopback each has its own."""
        for host, refused in (("10.0.0.1", "abc"), ("127.0.0.9", "")):
            rounds = Rounds(policy(max_weight_share=0.5), {}, None, Identity())
            there = {client: Peer(host=host, port=1) for client in "abc"} | {"d": Peer(host="10.0.0.2", port=1)}
            registrations = {client: rounds.register(client, 100, peer, 0.0) for client, peer in there.items()}
            for registration in registrations.values():
                rounds.confirm_registration(registration)
            rounds.close_window()
            begin(rounds, registrations, round=1, number=1, now=1.0)
            decided = {client: answer(rounds, client, peer=peer) for client, peer in there.items()}
            assert {client for client, verdict in decided.items() if verdict.decision == "rejected"} == set(refused)

    def test_a_cap_is_settled_with_the_invitations_and_said_with_each_answer(self) -> None:
        rounds = Rounds(policy(max_weight_share=0.5, caps_weight=True), {}, None, Identity())
        registrations = {"a": join(rounds, "a", data_size=2**29 - 1)}
        other = Peer(host="10.0.0.2", port=1)
        registrations["b"] = rounds.register("b", 100, other, 0.0)
        rounds.confirm_registration(registrations["b"])
        rounds.close_window()
        begin(rounds, registrations, round=1, number=1, now=1.0)
        heavy, light = answer(rounds, "a"), answer(rounds, "b", peer=other)
        assert [(v.decision, v.data_size, v.counted_size) for v in (heavy, light)] == [
            (None, 2**29 - 1, 100),
            (None, 100, 100),
        ]
        assert answer(rounds, "a").counted_size is None, "a duplicate counts with nothing"

    def test_seats_are_in_the_order_of_the_ids_as_text(self) -> None:
        rounds = Rounds(policy(), {}, None, Identity())
        for client in ("2", "10", "a", "B"):
            join(rounds, client)
        rounds.close_window()
        assert list(rounds.start(1, 1, 0.0).seats) == ["10", "2", "B", "a"]
