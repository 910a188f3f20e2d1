"""``python -m flserver``, and the console script's entry."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from flserver.cli.main import run_cli

    sys.exit(run_cli())


if __name__ == "__main__":
    main()
