"""The server as its systemd unit runs it: what ends it is not for good, and no attack on it shows in the models."""

import configparser
import signal

import torch

from tests.e2e.conftest import Start
from tests.e2e.harness import TESTS, Peer, ServerProcess
from tests.e2e.unattacked import digests, honest_rounds

UNIT = TESTS.parent / "ops" / "systemd" / "flserver.service"
ROUNDS = 2
SPOILT = 2  # processes, one after the other
SETTINGS = {
    "num_rounds": ROUNDS,
    "min_clients": 2,
    "round_attempts": 1,
    "time_to_wait": 0.3,
    "rejoin_timeout": 3600,
}
"""As they stand in flserver.env."""


def starts_again(code: int) -> bool:
    """Whether systemd starts the unit again after this end, as systemd.service(5) says; below 0 are signals."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(UNIT.read_text())
    service = {key: value.split() for key, value in unit["Service"].items()}
    if str(code) in service.get("restartpreventexitstatus", ()):
        return False
    if str(code) in service.get("restartforceexitstatus", ()):
        return True
    wished = {"0", *service.get("successexitstatus", ())}  # and SIGTERM, with which systemd itself stops it
    return service["restart"] == ["on-failure"] and str(code) not in wished


def spoil(server: ServerProcess) -> int:
    """One of two takes the round's quorum away. The server's exit code."""
    with Peer(server, "a").join() as a, Peer(server, "mallory").join() as mallory:
        a.answer(0.25)
        model = mallory.model()
        torch.nn.init.constant_(model.fc1.bias, float("nan"))  # type: ignore[union-attr,arg-type]
        mallory.upload(model)
        for peer in (a, mallory):
            peer.stopped()
    return server.exit_code()


def test_a_run_that_is_spoilt_and_ended_for_its_memory_goes_on_and_then_stays_down(
    start: Start, alone: list[str]
) -> None:
    settings = {f"FLSERVER_{name.upper()}": str(value) for name, value in SETTINGS.items()}

    def started(**more: str) -> ServerProcess:
        return start("--resume", env=settings | more)

    for _ in range(SPOILT):
        code = spoil(started())
        assert code == 3
        assert starts_again(code)
    full = started()
    with Peer(full, "a").join() as a, Peer(full, "b").join():
        a.answer(0.25)
        full.kill()  # what systemd does where MemoryMax is reached
    assert full.process.returncode == -signal.SIGKILL
    assert starts_again(full.process.returncode)
    mistyped = started(FLSERVER_SEED="7")  # another one than the run's
    assert not starts_again(mistyped.exit_code())
    last = started()
    with Peer(last, "a").join() as a, Peer(last, "b").join() as b:
        honest_rounds(a, b, ROUNDS)
    assert not starts_again(last.exit_code())
    assert digests(last) == alone[: ROUNDS + 1]
    ends = [code for (code,) in last.sql("SELECT exit_code FROM v1_processes ORDER BY process_id")]
    assert ends == [*[3] * SPOILT, None, 0]
    assert last.sql("SELECT status, rounds_committed FROM v1_runs") == [("completed", ROUNDS)]
    aborted = "SELECT round, attempt FROM v1_rounds WHERE status = 'aborted' ORDER BY attempt"
    assert last.sql(aborted) == [(1, 1 + number) for number in range(SPOILT + 1)]
