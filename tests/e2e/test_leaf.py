"""Data in LEAF's form, in which some have no samples: on the server and beside it."""

import json
import random
from pathlib import Path

from tests.e2e.conftest import Start
from tests.e2e.trainers import our_trainers

Users = dict[str, dict[str, list[object]]]


def writer(count: int) -> dict[str, list[object]]:
    draw = random.Random(count)
    return {
        "x": [[round(draw.random(), 3) for _ in range(784)] for _ in range(count)],
        "y": [draw.randrange(10) for _ in range(count)],
    }


def write(folder: Path, split: str, files: dict[int, Users]) -> None:
    for client, users in files.items():
        path = folder / split / f"mnist_{split}_client{client}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        counts = [len(user["y"]) for user in users.values()]
        path.write_text(json.dumps({"users": [*users], "num_samples": counts, "user_data": users}))


def test_a_run_on_leafs_data_with_empty_writers_and_an_empty_client(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "leaf"
    write(data, "train", {1: {"w1": writer(4), "w2": writer(0)}, 2: {"w3": writer(0), "w4": writer(3)}})
    write(data, "test", {1: {"w1": writer(4), "w2": writer(0)}, 2: {"w4": writer(3)}, 3: {"w5": writer(0)}})
    server = start(
        *("--num-rounds", "1", "--min-clients", "2", "--time-to-wait", "0.3"),
        *("--eval-data", "fldata", "--data-dir", str(data)),
    )
    with our_trainers(server, 1, 2, data_dir=data, epochs=1) as said:
        assert server.exit_code() == 0
    folder = str(data / "test")
    assert any(f"{folder}/mnist_test_client1.json holds no samples of user w2: left out" in x for x in server.lines)
    assert any(f"{folder}/mnist_test_client3.json holds no samples: left out" in line for line in server.lines)
    assert f"{data}/train/mnist_train_client1.json holds no samples of user w2: left out\n" in said[1]
    assert f"{data}/train/mnist_train_client2.json holds no samples of user w3: left out\n" in said[2]
    assert server.sql("SELECT client_id, data_size FROM v1_clients ORDER BY client_id") == [("1", 4), ("2", 3)]
    ((accuracy,),) = server.sql("SELECT accuracy FROM v1_rounds WHERE round = 1")
    assert round(accuracy * 7, 9) in range(8), "measured on the seven samples that there are"
