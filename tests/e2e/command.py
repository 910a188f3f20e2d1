"""``flserver`` as it is typed, to its end."""

import subprocess

from tests import warm
from tests.e2e.harness import TESTS
from tests.patience import PATIENCE


def flserver(*arguments: object) -> tuple[int, str]:
    process = warm.start(
        ["-m", "flserver", *map(str, arguments)],
        cwd=TESTS.parent,
        env={"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "PYTHONPATH": str(TESTS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = process.communicate(timeout=PATIENCE)
    return process.wait(), said
