"""A run with a seed and trainers that compute the same again makes the same models again, through a kill too."""

from contextlib import ExitStack
from pathlib import Path

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, ServerProcess, free_port
from tests.e2e.trainers import our_trainers
from tests.fldata import write_fldata

ROUNDS = 4
DIGESTS = """SELECT round, model_digest, updates_accepted, data_size FROM v1_rounds JOIN v1_runs USING (run_id)
    WHERE name = ? AND v1_rounds.status = 'committed' ORDER BY round"""


def test_a_run_repeats_to_the_bit_and_so_does_one_that_was_killed_and_resumed(start: Start, tmp_path: Path) -> None:
    data = write_fldata(tmp_path / "FLdata", (1, 2), samples=60)
    power = tmp_path / "power.py"
    options = ("--num-rounds", str(ROUNDS), "--min-clients", "2", "--seed", "7", *FAST)

    def begin(name: str, *more: str) -> ServerProcess:
        return start(*options, "--run-name", name, "--server-port", str(free_port()), *more)

    with ExitStack() as stack:

        def train(server: ServerProcess, *more: object) -> None:
            trained = {"dataset": "fldata", "data_dir": data, "epochs": 2, "seed": 3, "reconnect": 3600}
            for client in more:
                stack.enter_context(our_trainers(server, client, **trained))

        whole = begin("whole")
        train(whole, 2, 1)
        assert whole.exit_code() == 0
        power.write_text("import os\ndef cut(model, round): return {} if round < 3 else os.kill(os.getpid(), 9)\n")
        cut = begin("cut", "--keep-updates", "--evaluate", "power:cut")
        train(cut, 1, 2)
        assert cut.exit_code() == -9
        power.write_text("def cut(model, round): return {}\n")
        again = start("--resume", "--run-name", "cut", "--server-port", str(cut.port))
        assert again.exit_code() == 0
    expected = whole.sql(DIGESTS, "whole")
    assert [(round, accepted) for round, _, accepted, _ in expected] == [
        (0, 0),
        *((n, 2) for n in range(1, ROUNDS + 1)),
    ]
    assert len({digest for _, digest, _, _ in expected}) == ROUNDS + 1
    assert again.sql(DIGESTS, "cut") == expected
    ends = (
        "SELECT exit_code FROM v1_processes WHERE run_id = (SELECT run_id FROM v1_runs WHERE name = 'cut') ORDER BY 1"
    )
    assert again.sql(ends) == [(None,), (0,)], "one was killed"
