"""The benchmark's command line; ``ops/bench`` runs it."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.bench.rounds import ROOT, BenchError, Shape, compare, environment

SHAPES = ("8x4.5", "8x45", "32x4.5")
LARGE = {"framing": 4.5, "machine": 4.5, "template": 4.5, "checkpoint": 4.5, "round": 2.25}  # GB
QUICK = "3x0.03"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="ops/bench",
        description="What a round costs when training costs nothing, against the least that any server must do. One "
        "JSON line a shape. Quote the ratios (server / floor): seconds mean nothing on a machine that does other work.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--shape", action="append", choices=(*SHAPES, QUICK), help="clients x MB; may be repeated")
    what.add_argument("--quick", action="store_true", help=f"{QUICK}, 3 rounds, once: does it work at all?")
    what.add_argument("--micro", action="store_true", help="the parts: parse, write, average, record")
    what.add_argument(
        "--large", action="store_true", help="bodies over 4 GiB, part by part, and a whole round of 2.25 GB"
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=3, help="times that floor and server take turns")
    parser.add_argument("--size", default="45", choices=("0.03", "4.5", "45"), help="MB of --micro's model")
    parser.add_argument("--gb", type=float, help="GB of --large's model, for all of it")
    parser.add_argument(
        "--dir", type=Path, default=ROOT / "build", help="where both write; a disk whose fsync is one (default: build)"
    )
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    if given.micro:
        from tests.bench.micro import micro  # torch stays out of the process that measures others' memory

        print(json.dumps(micro(given.size, given.dir)))
        return 0
    if given.large:
        return large(given.gb, given.dir)
    rounds, pairs = (3, 1) if given.quick else (given.rounds, given.pairs)
    failed = False
    for text in [QUICK] if given.quick else given.shape or SHAPES:
        try:
            result = compare(Shape.parse(text, rounds), pairs, given.dir)
        except BenchError as error:
            print(f"{text}: {error}", file=sys.stderr)
            return 1
        print(json.dumps(result), flush=True)
        failed |= any([*result["floor_exit_codes"], *result["server_exit_codes"]])  # type: ignore[misc]
    return int(failed)


def large(gb: float | None, directory: Path) -> int:
    """Each part of :mod:`tests.bench.large` in turn. Returns the exit code of the first that fails, or 0."""
    for part, usual in LARGE.items():
        command = [sys.executable, "-m", "tests.bench.large", "--part", part, "--gb", str(gb or usual)]
        done = subprocess.run([*command, "--dir", str(directory)], cwd=ROOT, env=environment())
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
