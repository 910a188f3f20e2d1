"""The fuzzer's command line; ``ops/fuzz`` runs it."""

import argparse
import importlib.util
import secrets
import sys
from pathlib import Path

from tests.fuzz.campaign import FINDINGS, report, run
from tests.fuzz.seeds import dictionary, seeds
from tests.fuzz.target import try_input


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="ops/fuzz",
        description="Feeds flserver/wire with changed messages, guided by what they cover. An input that raises what "
        f"it must not, acts, takes long or takes much memory is kept in {FINDINGS.name}/, and the exit code is 1.",
    )
    parser.add_argument("seconds", type=int, nargs="?", default=60)
    parser.add_argument("--seed", type=int, help="of a run that is to be repeated (default: another one each time)")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="only read these inputs")
    given = parser.parse_args()
    if given.replay:
        for path in given.replay:
            try_input(path.read_bytes())
            print(f"{path}: nothing found")
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("ops/fuzz needs atheris: pip install -e '.[fuzz]' (Python 3.11 to 3.13, Linux or macOS)", file=sys.stderr)
        return 2
    seed = given.seed if given.seed is not None else 1 + secrets.randbelow(2**31 - 1)
    code, text = report(run(given.seconds, seed, seeds=seeds(), words=dictionary()), given.seconds, seed)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
