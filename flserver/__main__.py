"""``python -m flserver``, and the console script's entry."""

import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from flserver.cli.main import run_cli

    code = run_cli()
    # It is done: a signal that comes while Python ends, which takes a moment with torch in it, changes nothing of that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    clusters = sys.modules.get("flserver.cluster.ray")
    if clusters is not None and clusters.Cluster.left_waiting:  # all is closed, and on record
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
