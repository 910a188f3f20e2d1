"""``ops/sweep-nodes``: the models of a run are the same bits on 1, 2, 4 and 8 nodes, whoever comes where and when."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.ingest.on_threads import on_one, shuffled

NODES = (1, 2, 4, 8)
CLIENTS, ROUNDS = 5, 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="ops/sweep-nodes", description=__doc__)
    parser.add_argument("--shuffles", type=int, default=100, help="orders of arrival, each on all numbers of nodes")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    given = parser.parse_args()
    expected, runs, wrong = on_one(CLIENTS, ROUNDS), 0, 0
    for seed in range(given.first, given.first + given.shuffles):
        for nodes in NODES:
            with tempfile.TemporaryDirectory() as folder:
                found = shuffled(Path(folder), nodes, seed, CLIENTS, ROUNDS)
            runs += 1
            if found != expected:
                wrong += 1
                print(f"seed {seed}, {nodes} nodes: {found} where {expected} is right", flush=True)
    print(f"{runs} runs, {given.shuffles} shuffles on {', '.join(map(str, NODES))} nodes: {wrong} with other models")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
