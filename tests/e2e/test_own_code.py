"""A run of the operator's own model: on resume its file is compared with what it was when the run began."""

from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer

Join = Callable[..., list[Peer]]

MODEL = """
from torch import nn

def factory():
    return nn.Linear(784, 10)
"""
STRATEGY = """
from flserver.aggregation import FedAvg

class Mine(FedAvg):
    pass
"""
EVALUATE = """
def evaluate(model, round):
    return {"round": float(round)}
"""


def test_a_resume_imports_what_is_on_record_and_warns_where_its_file_has_changed(
    start: Start, join: Join, tmp_path: Path
) -> None:
    sources = {"model": MODEL, "strategy": STRATEGY, "evaluate": EVALUATE}
    for key, source in sources.items():
        (tmp_path / f"my_{key}.py").write_text(source)
    names = ("--model", "my_model:factory", "--strategy", "my_strategy:Mine", "--evaluate", "my_evaluate:evaluate")
    server = start("--num-rounds", "3", "--min-clients", "2", *names, *FAST)
    for peer in join(server, "a", "b"):
        peer.answer()
    server.wait_for_sql("SELECT 1 FROM v1_rounds WHERE round = 1 AND status = 'committed'")
    server.kill()
    unchanged = start("--resume")
    unchanged.wait_for_line("state: joining")
    unchanged.kill()
    assert "has changed since the run began" not in unchanged.log
    for key in ("model", "evaluate"):
        with (tmp_path / f"my_{key}.py").open("a") as file:
            file.write("\n# another line\n")
    changed = start("--resume", "--min-clients", "2", *FAST)
    for key in ("model", "evaluate"):
        changed.wait_for_line(rf"--{key} my_{key}:.*my_{key}\.py has changed since the run began \(it was sha256:")
    peers = join(changed, "a", "b")
    for _ in range(2):
        for peer in peers:
            peer.answer()
    for peer in peers:
        peer.finished()
    assert changed.exit_code() == 0
    assert "--strategy" not in changed.log
    resumed = changed.sql("SELECT json_extract(payload, '$.code') FROM v1_events WHERE type = 'RunResumed'")
    ((began,),) = changed.sql("SELECT json_extract(payload, '$.code') FROM v1_events WHERE type = 'RunStarted'")
    assert resumed[0] == (began,)
    assert resumed[1] != (began,)
