"""``ops/sweep-nodes``: the models of a run are the same bits on 1, 2, 4 and 8 nodes, whoever comes where and when."""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from tests.ingest.on_threads import Called, Engine, OnThreads, on_one, shuffled
from tests.ingest.strategies import ALL

NODES = (1, 2, 4, 8)
CLIENTS, ROUNDS = 5, 2
ENGINES: dict[str, Engine] = {"ray": OnThreads, "processes": Called}


def main() -> int:
    parser = argparse.ArgumentParser(prog="ops/sweep-nodes", description=__doc__)
    parser.add_argument("--shuffles", type=int, default=100, help="orders of arrival, each on all numbers of nodes")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--strategy", nargs="+", default=["fedavg"], help="MODULE:CLASS, or all: every kind there is")
    parser.add_argument("--nodes-are", choices=ENGINES, nargs="+", default=["ray"], help="how they make a new model")
    given = parser.parse_args()
    runs = wrong = 0
    for strategy in ALL if given.strategy == ["all"] else given.strategy:
        expected = on_one(CLIENTS, ROUNDS, strategy)
        for seed in range(given.first, given.first + given.shuffles):
            for nodes, which in itertools.product(NODES, given.nodes_are):
                with tempfile.TemporaryDirectory() as folder:
                    found = shuffled(
                        Path(folder), nodes, seed, CLIENTS, ROUNDS, strategy=strategy, engine=ENGINES[which]
                    )
                runs += 1
                if found != expected:
                    wrong += 1
                    told = f"seed {seed}, {nodes} nodes ({which}), {strategy}"
                    print(f"{told}: {found} where {expected} is right", flush=True)
    print(f"{runs} runs, {given.shuffles} shuffles on {', '.join(map(str, NODES))} nodes: {wrong} with other models")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
