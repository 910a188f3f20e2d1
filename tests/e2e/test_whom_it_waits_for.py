"""What an operator reads while a run waits, and when it has ended early."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import warm
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, TESTS, Peer, ServerProcess
from tests.patience import PATIENCE, eventually

Join = Callable[..., list[Peer]]


def gauges(server: ServerProcess) -> tuple[float, float]:
    metrics = server.metrics()
    return metrics["flserver_answered_clients"], metrics["flserver_awaited_clients"]


def test_a_round_says_who_has_not_answered_and_health_and_metrics_how_many(start: Start, join: Join) -> None:
    server = start("--num-rounds", "1", "--min-clients", "3", *FAST)
    a, b = join(server, "a", "b")
    server.wait_for_line(r"state: joining: 1 more client needed")
    assert server.health()[1]["waiting"] == {"for": "registrations", "answered": 2, "missing": 1, "seconds_left": None}
    assert gauges(server) == (2, 1)
    (c,) = join(server, "c")
    models = [peer.model() for peer in (a, b, c)]
    b.upload(models[1])
    eventually(lambda: gauges(server) == (1, 2))
    waiting = server.health()[1]["waiting"]
    assert (waiting["for"], waiting["answered"], waiting["missing"]) == ("updates", 1, 2)
    assert 3000 < waiting["seconds_left"] <= 3600
    line = r"round 1/1 waits for \d\d s: 1 of 3 answered; not yet: a, c; 3,[45]\d\d s to the deadline$"
    server.wait_for_line(line)
    for peer, model in ((a, models[0]), (c, models[2])):
        peer.upload(model)
    for peer in (a, b, c):
        peer.finished()
    assert server.exit_code() == 0
    ((answered, missing),) = server.sql(
        "SELECT payload ->> 'answered', payload ->> 'missing' FROM v1_events WHERE type = 'Waited'"
    )
    assert (answered, missing) == (1, 2)


def command(server: ServerProcess) -> str:
    """What the log ends with."""
    match = re.search(r"(?:^| INFO )to go on: (.*)$", server.lines[-1])
    assert match, server.log
    return match[1]


def typed(line: str, folder: Path, *, by_a_shell: bool) -> warm.Started:
    """What is started where an operator types that: by a shell, or forked, with the words that a shell makes of it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_")}
    environment |= {"PYTHONPATH": str(TESTS.parent)}
    if by_a_shell:
        return subprocess.Popen(
            f"exec {line}", shell=True, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
        )
    words = shlex.split(line)
    program = ["-m", "flserver", *words[words.index("--db") :]]
    return warm.start(program, cwd=folder, env=environment, stderr=subprocess.PIPE)


@pytest.mark.parametrize("end", ["Ctrl-C", "Ctrl-C twice", "a missed quorum"])
def test_an_interrupted_run_ends_with_the_command_that_goes_on(
    start: Start, join: Join, tmp_path: Path, end: str
) -> None:
    options = ("--round-timeout", "0.5", "--round-attempts", "1") if end == "a missed quorum" else ()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    server = start("--num-rounds", "2", "--min-clients", "2", "--run-name", 'Anne\'s "first" $run', *options, *FAST)
    a, b = join(server, "a", "b")
    for peer in (a, b):
        peer.model()
    if end != "a missed quorum":
        server.process.send_signal(signal.SIGINT)
        server.wait_for_line("SIGINT: stopping")

        def ended() -> bool:
            if end == "Ctrl-C twice":
                server.process.send_signal(signal.SIGINT)
            return server.process.poll() is not None

        if end == "Ctrl-C":
            for peer in (a, b):
                peer.connection.close()
        eventually(ended)
    assert server.exit_code() == 3
    with typed(command(server), elsewhere, by_a_shell=end == "Ctrl-C") as resumed:
        assert resumed.stderr is not None
        lines = iter(resumed.stderr.readline, "")
        assert any(re.search(r"run \S+ resumed from round 0 of 2", line) for line in lines)
        resumed.terminate()
        assert resumed.wait(PATIENCE) == 3
    assert server.sql("SELECT COUNT(*), MAX(num_rounds) FROM v1_runs") == [(1, 2)]
