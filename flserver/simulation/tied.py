"""``python -m flserver.simulation.tied PID COMMAND…`` becomes the command, which is told to stop when PID ends, however
that ends: for a server, which looks at no pipe of whoever started it.
"""

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended before that was said
        sys.exit("whoever started this has ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
