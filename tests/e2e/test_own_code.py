"""A run of the operator's own model: on resume its file is compared with what it was when the run began."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer

PROCESSES = "SELECT code, libraries, cpu FROM v1_processes ORDER BY process_id"

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
        peer.answer(0.5)
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
    for a, b in ((1.0, -0.5), (0.25, 0.0)):
        peers[0].answer(a)
        peers[1].answer(b)
    for peer in peers:
        peer.finished()
    assert changed.exit_code() == 0
    assert "--strategy" not in changed.log
    resumed = changed.sql("SELECT json_extract(payload, '$.code') FROM v1_events WHERE type = 'RunResumed'")
    ((began,),) = changed.sql("SELECT json_extract(payload, '$.code') FROM v1_events WHERE type = 'RunStarted'")
    assert resumed[0] == (began,)
    assert resumed[1] != (began,)
    made = [(json.loads(code), json.loads(libraries), cpu) for code, libraries, cpu in changed.sql(PROCESSES)]
    assert made[0] == made[1], "the run was not changed when it was resumed first"
    assert {key for key, digest in made[1][0].items() if made[2][0][key] != digest} == {"model", "evaluate"}
    assert made[0][0]["model"] == f"sha256:{hashlib.sha256(MODEL.encode()).hexdigest()}"
    assert {"flserver", "torch", "numpy"} <= set(made[0][1])
    acts = changed.sql("SELECT process_id, detail FROM v1_operator_events WHERE kind = 'override' AND process_id = 3")
    told = {detail["setting"]: (detail["before"], detail["now"]) for _, text in acts for detail in [json.loads(text)]}
    assert {key: told[f"code.{key}"] for key in ("model", "evaluate")} == {
        key: (made[1][0][key], made[2][0][key]) for key in ("model", "evaluate")
    }
    assert {setting for setting in told if setting.startswith(("code.", "libraries.", "cpu"))} == {
        "code.model",
        "code.evaluate",
    }
    cosines = changed.sql("SELECT answers_round, client_id, update_cosine FROM v1_updates ORDER BY 1, 2")
    assert [(round, client) for round, client, _ in cosines] == [(r, c) for r in (1, 2, 3) for c in "ab"]
    found = [cosine for _, _, cosine in cosines]
    assert found[:2] == [None, None], "before round 1 there was no step"
    assert found[2:4] == [pytest.approx(1.0), pytest.approx(-1.0)], "after a resumption the step is found again"
    assert found[4:] == [pytest.approx(1.0), None], "who stays has no direction"
