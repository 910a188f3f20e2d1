"""Two honest trainers, and the models of their rounds without anybody else: what an attack has to leave as it is."""

from collections.abc import Iterator

import pytest

from tests.e2e.harness import FAST, Peer, ServerProcess

ROUNDS = 5


def steps(number: int) -> tuple[float, float]:
    """What each of the two adds to all parameters in round ``number``, from 0."""
    return 0.25 + number, 0.75


def honest_round(a: Peer, b: Peer, number: int, **more: object) -> None:
    """One round. ``more`` goes into both messages."""
    for peer, step in zip((a, b), steps(number), strict=True):
        peer.answer(step, **more)


def honest_rounds(a: Peer, b: Peer, rounds: int) -> None:
    """All of a run's."""
    for number in range(rounds):
        honest_round(a, b, number)
    for peer in (a, b):
        peer.finished()


def digests(server: ServerProcess) -> list[str]:
    """The models, from round 0 on."""
    return [d for (d,) in server.sql("SELECT model_digest FROM v1_rounds WHERE status = 'committed' ORDER BY round")]


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The models of ``ROUNDS`` rounds of the two, from round 0 on, without anybody else."""
    rounds = ("--num-rounds", str(ROUNDS), "--min-clients", "2")
    with ServerProcess(tmp_path_factory.mktemp("alone"), *rounds, *FAST) as server:
        with Peer(server, "a").join() as a, Peer(server, "b").join() as b:
            honest_rounds(a, b, ROUNDS)
        assert server.exit_code() == 0
        yield digests(server)
