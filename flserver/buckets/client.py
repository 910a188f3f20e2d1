"""botocore's client, what goes wrong with it in our own words, and patience with a store that fails.

Credentials, region and endpoint are from where botocore looks for them: the environment (``AWS_…``), the usual files
(``~/.aws``), the machine's own role.
"""

import errno
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Lock
from typing import Any, TypeVar

from flserver.clock import Deadline
from flserver.errors import NotInstalled
from flserver.settings.folders import ObjectPath
from flserver.text import printable

logger = logging.getLogger(__name__)

PAUSE = 1.0  # seconds between two tries
CONNECT_SECONDS = 10
SILENCES = (10, 20, 30, 60)
"""Seconds that a store may say nothing to a request of somebody patient: the longest that fits what is left of the
patience. One is given up no earlier than the first of them, for to answer is work."""
SILENCE, TRIES = 20, 3  # the same where nobody is patient, and how often the request is sent then

_AGAIN = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "OperationAborted"}
_GONE = {"NoSuchKey", "404", "NoSuchUpload"}

Result = TypeVar("Result")
_lock = Lock()  # guards _clients: making one is not for several threads at once, using one is
_clients: dict[int | None, Any] = {}  # by how long a store may say nothing; None: the one of the impatient
_patience: ContextVar[Deadline | None] = ContextVar("patience", default=None)


class Refused(PermissionError):
    """The store will not do it; ``code`` is its own word for why."""

    code = ""


class Unreachable(OSError):
    """The store did not answer, or said that it cannot just now."""


def client() -> Any:
    """botocore's client, one a process for whoever is equally patient. Raises NotInstalled, and OSError where what is
    configured is wrong."""
    silence = _silence()
    with _lock:
        if silence not in _clients:
            _clients[silence] = _made(silence)
        return _clients[silence]


def _silence() -> int | None:
    deadline = _patience.get()
    if deadline is None:
        return None
    left = round(deadline.remaining())
    return max((seconds for seconds in SILENCES if seconds <= left), default=SILENCES[0])


def _made(silence: int | None) -> Any:
    try:
        from botocore.config import Config
        from botocore.session import get_session
    except ImportError as error:
        raise NotInstalled("s3:// needs botocore", "s3") from error
    for name in ("botocore", "urllib3"):  # which would log whole requests where everything is logged
        logging.getLogger(name).setLevel(logging.ERROR)
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=silence or SILENCE,
        retries={"mode": "standard", "total_max_attempts": TRIES if silence is None else 1},  # patience is ours
        max_pool_connections=64,
        # Ours are SHA-256, and other stores than Amazon's do not know the rest.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with errors(ObjectPath("")):
        return get_session().create_client("s3", config=config)


def close() -> None:
    """Let go of the clients and their connections."""
    with _lock:
        while _clients:
            _clients.popitem()[1].close()


def patiently(work: Callable[[], Result], what: str, patience: float) -> Result:
    """What ``work`` gives, which may be done several times, as long as the store is Unreachable and ``patience``
    seconds are not over; one that says nothing is not waited for longer, but for ``SILENCES[0]``. Raises OSError."""
    deadline, told = Deadline.after(patience), False
    while True:
        try:
            with _within(deadline):
                result = work()
        except Unreachable as error:
            if deadline.passed:
                raise
            if not told:
                logger.warning("%s: %s; trying again for up to %.0f s", what, error.strerror, patience)
                told = True
        else:
            if told:
                logger.warning("%s: the object store answers again", what)
            return result
        Event().wait(min(PAUSE, deadline.remaining()))


@contextmanager
def _within(deadline: Deadline) -> Iterator[None]:
    before = _patience.set(deadline)
    try:
        yield
    finally:
        _patience.reset(before)


@contextmanager
def errors(place: ObjectPath) -> Iterator[None]:
    """What botocore raises within the block, as an OSError."""
    try:
        from botocore import exceptions as aws
    except ImportError as error:
        raise NotInstalled("s3:// needs botocore", "s3") from error
    try:
        yield
    except aws.ClientError as error:
        raise _said_by_the_store(error.response, place) from error
    except (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, ConnectionError) as error:
        raise Unreachable(errno.EIO, f"the object store cannot be reached: {_short(error)}", str(place)) from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        line = f"{_short(error)}: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or ~/.aws/credentials"
        raise PermissionError(errno.EACCES, line, str(place)) from error
    except (aws.BotoCoreError, ValueError) as error:  # such as an endpoint that is no address
        raise PermissionError(errno.EACCES, f"the object store cannot be asked: {_short(error)}", str(place)) from error


def _said_by_the_store(response: dict[str, Any], place: ObjectPath) -> OSError:
    said, status = response.get("Error", {}), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(said.get("Code", status))
    text = printable(f"{code}: {said.get('Message', '')}".removesuffix(": "))
    if code == "NoSuchBucket":
        return FileNotFoundError(errno.ENOENT, f"there is no bucket {place.bucket}", str(place))
    if code in _GONE:
        return FileNotFoundError(errno.ENOENT, "there is no such object", str(place))
    if code in _AGAIN or status >= 500 or status == 429:
        return Unreachable(errno.EIO, f"the object store cannot just now: {text}", str(place))
    refused = Refused(errno.EACCES, f"the object store refuses: {text}", str(place))
    refused.code = code
    return refused


def _short(error: Exception) -> str:
    """What it says on one line, without what an address may have before its host."""
    return printable(re.sub(r"//[^/\s]*@", "//", " ".join(str(error).split())))
