"""The steps of a run by its rules, each a line of a test; the clock is a number."""

from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.rounds import Registration, Rounds, Upload, Verdict
from tests.rounds.policies import policy

PEER = Peer(host="10.0.0.1", port=1)


def join(rounds: Rounds, client_id: str, now: float = 0.0, data_size: int = 10) -> Registration:
    registration = rounds.register(client_id, data_size, PEER, now)
    rounds.confirm_registration(registration)
    return registration


def started(clients: str = "abc", **changed: object) -> tuple[Rounds, dict[str, Registration]]:
    """A run of one-letter clients in its first attempt, every model sent at t = 1."""
    rounds = Rounds(policy(**changed), {}, None, Identity())
    registrations = {client: join(rounds, client) for client in clients}
    rounds.close_window()
    begin(rounds, registrations, round=1, number=1, now=1.0)
    return rounds, registrations


def begin(rounds: Rounds, registrations: dict[str, Registration], round: int, number: int, now: float) -> None:
    attempt = rounds.start(round, number, now)
    for client in attempt.seats:
        sent = rounds.send_to(registrations[client])
        assert sent is not None
        sent.handed_over_at = now


def offer(
    rounds: Rounds,
    client: str,
    at: float = 2.0,
    rejection: str | None = None,
    update_id: int = 1,
    digest: str = "blake3:00",
    peer: Peer = PEER,
) -> Verdict:
    """An upload on a connection that was accepted at ``at``, decided then, not yet on record."""
    return rounds.offer(uploaded(client, at, rejection, update_id, digest, peer), at)


def uploaded(
    client: str,
    at: float = 2.0,
    rejection: str | None = None,
    update_id: int = 1,
    digest: str = "blake3:00",
    peer: Peer = PEER,
) -> Upload:
    return Upload(update_id=update_id, client_id=client, peer=peer, accepted_at=at, digest=digest, rejection=rejection)


def answer(
    rounds: Rounds,
    client: str,
    at: float = 2.0,
    rejection: str | None = None,
    update_id: int = 1,
    digest: str = "blake3:00",
    peer: Peer = PEER,
) -> Verdict:
    verdict = offer(rounds, client, at, rejection, update_id, digest, peer)
    rounds.confirm_answer(verdict)
    return verdict
