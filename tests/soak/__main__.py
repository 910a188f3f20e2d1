"""The soak's command line; ``ops/soak`` runs it."""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.ledger import SoakError
from tests.soak.run import soak

ROOT = Path(__file__).parents[2]
LEAST = 2000  # connections; with fewer the warm-up is most of them


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="ops/soak",
        description="Honest trainers go round after round while strangers come and go in every way there is. At the "
        "end no thread, descriptor or row may be left open, memory must have been flat since the warm-up, and "
        "/metrics must say what SQL says; the honest must have had each round in time, and it must be the mean of what "
        "they sent, bit for bit. One JSON line of figures; what does not hold, a line each on standard error.",
    )
    parser.add_argument("connections", nargs="?", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="which strangers come, and in which order")
    parser.add_argument("--dir", type=Path, default=ROOT / "build", help="where the server writes (default: build)")
    given = parser.parse_args()
    if given.connections < LEAST:
        parser.error(f"at least {LEAST} connections")
    given.dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=given.dir, prefix="soak-")).resolve()
    try:
        report = soak(given.connections, given.seed, folder)
        findings = report.findings
        print(json.dumps(report.figures), flush=True)
    except SoakError as error:
        findings = [str(error)]
    if findings:
        print(*findings, f"the record and the server's log are in {folder}", sep="\n", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    print("nothing is left of them but their rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
