"""One run of a real server: three honest trainers, and, where it is attacked, the corpus while they train."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.e2e.agreement import assert_metrics_say_what_sql_says
from tests.e2e.harness import Peer, ServerProcess
from tests.e2e.hostile.attack import Attack, Sent
from tests.e2e.hostile.claims import HONEST
from tests.e2e.hostile.net import SPEC
from tests.patience import PATIENCE

ROUNDS = 10
RECEIVE_MEMORY = 16  # MiB
SIZES = (100, 250, 37)  # the honest trainers' numbers of samples
STEPS = (0.25, -0.5, 0.125)  # what they add to every parameter in round 1; in round r, r times as much
TRAPS = Path(__file__).with_name("traps")
OPTIONS = ("--model", SPEC, "--seed", "11", "--num-rounds", str(ROUNDS), "--round-timeout", "3600")
OPTIONS += ("--strangers-per-minute", "1000000")  # each input is looked up by its rows
OPTIONS += (
    "--time-to-wait",
    "0.2",
    "--accept-dtypes",
    "",
    "--receive-memory",
    str(RECEIVE_MEMORY),
    "--metrics-linger",
    str(PATIENCE),
)


@dataclass(frozen=True)
class Campaign:
    """What is left of a run. ``peak``: the most memory (bytes) that the server had resident after all had joined.

    ``metrics_differ`` says where /metrics was not what SQL said; ``marker`` is there if anything ran.
    """

    db: Path
    log: str
    exit_code: int
    peak: int
    metrics_differ: str | None
    marker: Path
    sent: Mapping[str, Sent]


def run(folder: Path, *, attacked: bool) -> Campaign:
    """The honest trainers' part is the same in both kinds of run, and must end in the same models."""
    shutil.copytree(TRAPS, folder, dirs_exist_ok=True)
    clients = len(HONEST) + (Attack.participants() if attacked else 0)
    with ServerProcess(folder, *OPTIONS, "--min-clients", str(clients)) as server:
        with contextlib.ExitStack() as stack:
            attack = stack.enter_context(Attack(server, ROUNDS)) if attacked else None
            server.wait_for_line("state: joining")
            if attack is not None:
                attack.before_anybody()
            honest = [stack.enter_context(Peer(server, *who)).join() for who in zip(HONEST, SIZES, strict=True)]
            if attack is not None:
                attack.join()
            # From here on: the imports at start take more than a run does.
            Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
            _train(honest, attack)
            for peer in (*honest, *(attack.mallories if attack is not None else ())):
                peer.finished()
            if attack is not None:
                attack.when_it_is_over()
            server.wait_for_line("metrics stay for")
            metrics_differ = None
            try:
                assert_metrics_say_what_sql_says(server)
            except AssertionError as error:
                metrics_differ = str(error)
            peak = resident_peak(server.process.pid)
            server.process.terminate()
        exit_code = server.exit_code()
    sent = {} if attack is None else attack.sent
    return Campaign(server.db, server.log, exit_code, peak, metrics_differ, folder / "ran", sent)


def _train(honest: list[Peer], attack: Attack | None) -> None:
    for number in range(1, ROUNDS + 1):
        models = [peer.model() for peer in honest]
        if attack is not None:
            if number > 1:
                attack.when_it_is_over()
            attack.in_round(number)
        for peer, model, step in zip(honest, models, STEPS, strict=True):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(number * step)
            peer.upload(model)


def resident_peak(pid: int) -> int:
    """The most bytes that a process had resident since its peak was last cleared."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
