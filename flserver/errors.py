"""One tree of errors, so that a caller can tell what the peer did wrong from what we did wrong.

FlserverError
├── PeerError                 the peer's doing: it costs that connection only
│   ├── Refused               it broke the protocol, a limit or an identity rule: outcome ``refused``
│   │   ├── FrameRefused      a length or a first byte that may not come now, or a PROXY header that is none
│   │   │   └── FrameTooLong  a length that may not come now, of what could be a message
│   │   ├── MessageRefused    a body that is not one of the six messages, or comes out of turn
│   │   ├── PickleRefused     a pickle that is not read, or holds no model
│   │   ├── HandshakeRefused  a TLS handshake that does not come about
│   │   ├── NoRoom            an update for which its sender's share, the memory and the disk have no place
│   │   ├── NotAskedFor       an update that can only be a duplicate, which shows before it is read
│   │   ├── TensorsTooLarge   an update that holds more than may come, however short its message
│   │   ├── IdentityRefused   a peer that may not speak for the client it names
│   │   └── RegistrationRefused  an id or a time at which nobody may register
│   └── ConnectionLost        end of file, reset or deadline: outcome ``failed``
├── UsageError                what the operator asked for cannot be done: one line, exit code 2
│   ├── NotInstalled          a library that only some need is not there: how to install it
│   ├── PortTaken             not now: somebody listens on the port that is to be listened on
│   │   └── PortBusy          not now: nobody does, but somebody's connection has it
│   └── Damaged               the database is not what was written: exit code 1
├── StoreError                the database failed: the server stops, exit code 1
├── TooDifferent              an update for which a strategy has no room: it is rejected
├── StrategyError             the aggregation failed: exit code 1
├── CheckpointError           a checkpoint failed or does not verify: exit code 1
├── StartError                the model could not be made, and trainers had come already: exit code 1
└── HeadError                 a signed head or a proof cannot be read, or does not hold: exit code 1
    ├── NoHead                none could be fetched, so that nothing could be checked: exit code 2
    └── Rewritten             a head contradicts an earlier one of the same log: its past was changed
"""

import shlex
import sys
from typing import Literal

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 3
"""The exit codes of every command; 3 says that the run can be resumed."""

Cause = Literal["closed", "reset", "timeout", "other"]
"""Why a connection was lost; ``closed`` is an end of file."""


class FlserverError(Exception):
    """The root of every error this project raises on purpose."""

    exit_code = EXIT_FAILED


class PeerError(FlserverError):
    """The peer did something wrong, or went away. The message is the ``reason`` in SQL."""

    outcome: Literal["refused", "failed"] = "refused"


class Refused(PeerError):
    """The peer broke the protocol, a limit or an identity rule.

    ``header`` and ``client_id`` are what the message said of itself, as far as that could be read.
    """

    header: str | None = None
    client_id: str | None = None


class FrameRefused(Refused):
    """A frame whose length or first byte the connection's state does not allow, or, before the first frame, bytes that
    are no PROXY protocol header where one has to stand."""


class FrameTooLong(FrameRefused):
    """A frame that is longer than what may come: its body was not read."""


class MessageRefused(Refused):
    """A body that is not one of the six messages, or a message that comes out of turn."""


class PickleRefused(Refused):
    """A pickle that ``wire.machine`` does not read, or in which ``wire.modules`` finds no model as torch pickles it."""


class HandshakeRefused(Refused):
    """A TLS handshake that failed, or did not come: plain text, or a certificate that is not accepted."""


class NoRoom(Refused):
    """An update for which there is no place: its sender has more than its share under way, or memory and disk are
    full."""


class NotAskedFor(Refused):
    """An update of ``sender``, who has no model that it could answer: it is not read."""

    def __init__(self, sender: str) -> None:
        super().__init__(f"client {sender} was not asked for an update")
        self.sender = sender


class TensorsTooLarge(Refused):
    """An update whose tensors hold more than may come, however short its body: many names can share one tensor."""


class IdentityRefused(Refused):
    """The peer may not speak for the client it names. For a registration, the message is sent to the trainer."""


class RegistrationRefused(Refused):
    """A registration that the rules of the run do not take. The trainer is ``told`` why: the message, or less."""

    def __init__(self, message: str, told: str | None = None) -> None:
        super().__init__(message)
        self.told = told or message


class ConnectionLost(PeerError):
    """The connection ended in the middle of something."""

    outcome = "failed"

    def __init__(self, message: str, cause: Cause = "other") -> None:
        super().__init__(message)
        self.cause = cause


class UsageError(FlserverError):
    """What the operator asked for cannot be done. Printed as one line; exit code 2."""

    exit_code = EXIT_USAGE


class NotInstalled(UsageError):
    """A library that only some users need is not there. ``extra`` brings it, in a clone and in an installed package
    alike: that is said for the Python that runs."""

    def __init__(self, lacking: str, extra: str) -> None:
        super().__init__(f"{lacking}: {shlex.quote(sys.executable)} -m pip install 'flserver[{extra}]'")


class PortTaken(UsageError):
    """Somebody listens on the port."""


class PortBusy(PortTaken):
    """Nobody listens on the port, but somebody's connection has it until it ends."""


class Damaged(UsageError):
    """The database is damaged, or has lost what was durable: nothing can be begun with it, and the message says what
    can. Exit code 1."""

    exit_code = EXIT_FAILED


class StoreError(FlserverError):
    """The database could not be read or written. The server does not go on without its record."""


class StrategyError(FlserverError):
    """The strategy raised, or what it made is not a model of the run's layout."""


class TooDifferent(FlserverError):
    """A strategy has no room for what this update has different from the others: nothing of it is folded, and it is
    rejected. The message says what there is too much of."""


class CheckpointError(FlserverError):
    """A checkpoint could not be written durably, or does not match its digest."""


class StartError(FlserverError):
    """What the run begins with could not be made, and trainers had come already."""


def one_line(error: BaseException) -> str:
    """An error of somebody else's code, for the one line that the operator reads."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FlserverError) else f"{type(error).__name__}: {text}".removesuffix(": ")


class HeadError(FlserverError):
    """A signed head, a key or a proof that cannot be read, is not signed by whom it should be, or does not hold."""


class Rewritten(HeadError):
    """A head that its log has signed contradicts an earlier one: the past was changed, cut, or told differently."""


class NoHead(HeadError):
    """No head could be fetched: nothing is known of it, and nothing was checked."""

    exit_code = EXIT_USAGE
