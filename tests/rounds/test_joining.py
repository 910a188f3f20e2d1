"""What is said while the join window is open: that it is, and that enough are there, however many come and go."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flserver import events as e
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.rounds import Rounds
from flserver.rounds.join_window import Stage
from flserver.rounds.joining import EMPTY, SAID_AGAIN, Said, opened
from flserver.rounds.waiting import Waiting
from tests.patience import PATIENCE, eventually
from tests.rounds.coordinated import Run, Trainer
from tests.rounds.policies import policy

NOBODY, OPEN, ENOUGH = Stage(), Stage(open=True), Stage(open=True, enough=True)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Run]:
    return lambda **changed: Run(tmp_path, **changed)


def waiting(answered: int, missing: int, names: tuple[str, ...] = ()) -> Waiting:
    return Waiting(awaited="registrations", answered=answered, missing=missing, names=names)


def test_a_window_is_open_as_soon_as_somebody_is_there_and_short_when_its_time_is_up() -> None:
    rounds = Rounds(policy(min_clients=2, time_to_wait=10.0), {}, None, Identity())
    assert rounds.window_stage(0.0) == Stage()
    half = rounds.register("1", 10, Peer(host="10.0.0.1", port=1), 0.0)
    assert rounds.window_stage(0.0) == Stage(), "who is half registered is not there"
    rounds.confirm_registration(half)
    assert (rounds.window_stage(9.9), rounds.window_stage(10.0)) == (OPEN, Stage(short=1))
    rounds.confirm_registration(rounds.register("2", 10, Peer(host="10.0.0.1", port=1), 1.0))
    assert (rounds.window_stage(9.9), rounds.window_stage(10.0)) == (ENOUGH, Stage())


def test_each_stage_is_said_once_a_minute_whoever_comes_and_goes() -> None:
    said = Said()
    times = [(OPEN, 0.0), (ENOUGH, 1.0), (OPEN, 2.0), (ENOUGH, 3.0), (OPEN, SAID_AGAIN), (ENOUGH, SAID_AGAIN)]
    assert [said.is_new(stage, at) for stage, at in times] == [True, True, False, False, True, False]
    assert [said.is_new(NOBODY, at) for at in (2.5, 2.6)] == [True, False]


@pytest.mark.parametrize(
    ("there", "changed", "text"),
    [
        (waiting(2, 1), {"min_clients": 3}, "join window: 55 s from now; 2 of 3 clients there"),
        (
            waiting(1, 2, ("2", "3 (Lund)")),
            {"min_clients": 3},
            "join window: 55 s from now; 1 of 3 clients there; not there: 2, 3 (Lund)",
        ),
        (
            waiting(3, 0),
            {"min_clients": 3},
            "all 3 of --min-clients are there: round 4 begins in 55 s; more may join until then",
        ),
        (waiting(1, 0), {}, "1 client there: round 4 begins in 55 s; more may join until then"),
        (
            waiting(2, 0, ("3 (Lund)",)),
            {"min_clients": 2},
            "all 2 of --min-clients are there: round 4 begins in 55 s; or as soon as all on the roster are in",
        ),
        (
            waiting(1, 0),
            {"join_window": "sliding"},
            "1 client there: round 4 begins in 55 s; more may join until then, and each moves that",
        ),
    ],
)
def test_what_is_said_has_the_seconds_and_who_is_there(there: Waiting, changed: dict[str, object], text: str) -> None:
    assert opened(there, 55.0, 4, policy(**changed)) == text


def test_an_open_window_is_said_in_two_lines_for_a_whole_fleet(start: Callable[..., Run]) -> None:
    def said() -> list[str | None]:
        return [event.detail for event in run.recorder.events if isinstance(event, e.StateChanged)]

    with start(min_clients=2, time_to_wait=10 * PATIENCE) as run:
        run.coordinator.start()
        trainers = [Trainer(run, "a")]
        eventually(lambda: len(said()) == 1, said)
        trainers += [Trainer(run, client) for client in "bcdef"]
        eventually(lambda: len(said()) == 2, said)
        run.exchange.stop("stopped by a test")
        assert run.finish() == "interrupted"
    assert str(said()[0]).startswith("join window: ")
    assert str(said()[0]).endswith(" s from now; 1 of 2 clients there")
    assert str(said()[1]).startswith("all 2 of --min-clients are there: round 1 begins in ")
    assert said()[2:] == ["stopped by a test"]


def test_that_all_have_left_an_open_window_is_said(start: Callable[..., Run]) -> None:
    """Else the last line of a log would be that a round begins in some seconds, and none does."""

    def said() -> list[str | None]:
        return [event.detail for event in run.recorder.events if isinstance(event, e.StateChanged)]

    with start(min_clients=2, time_to_wait=10 * PATIENCE) as run:
        run.coordinator.start()
        visitor = Trainer(run, "a")
        eventually(lambda: len(said()) == 1, said)
        run.exchange.leave(visitor.registration)
        eventually(lambda: len(said()) == 2, said)
        run.exchange.stop("stopped by a test")
        assert run.finish() == "interrupted"
    assert said()[1:] == [EMPTY, "stopped by a test"]
