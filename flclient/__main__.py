"""``python -m flclient``, and the ``flclient`` script."""

import sys

from flclient.cli import flclient
from flserver.settings.options import run


def main() -> int:
    """Run the trainer and return its exit code."""
    return run(flclient, "FLCLIENT")


if __name__ == "__main__":
    sys.exit(main())
