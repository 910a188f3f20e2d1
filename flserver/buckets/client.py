"""botocore's client, what goes wrong with it in our own words, and patience with a store that fails.

Credentials, region and endpoint are from where botocore looks for them: the environment (``AWS_…``), the usual files
(``~/.aws``), the machine's own role.
"""

import errno
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any, TypeVar

from flserver.clock import Deadline
from flserver.errors import NotInstalled
from flserver.settings.folders import ObjectPath
from flserver.text import printable

logger = logging.getLogger(__name__)

PAUSE = 1.0  # seconds between two tries

_AGAIN = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "OperationAborted"}
_GONE = {"NoSuchKey", "404", "NoSuchUpload"}

Result = TypeVar("Result")
_lock = Lock()  # guards _client: making one is not for several threads at once, using one is
_client: Any = None


class Refused(PermissionError):
    """The store will not do it; ``code`` is its own word for why."""

    code = ""


class Unreachable(OSError):
    """The store did not answer, or said that it cannot just now."""


def client() -> Any:
    """botocore's client, one a process. Raises NotInstalled, and OSError where what is configured is wrong."""
    global _client
    with _lock:
        if _client is None:
            try:
                from botocore.config import Config
                from botocore.session import get_session
            except ImportError as error:
                raise NotInstalled("s3:// needs botocore", "s3") from error
            for name in ("botocore", "urllib3"):  # which would log whole requests where everything is logged
                logging.getLogger(name).setLevel(logging.ERROR)
            config = Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 3},
                max_pool_connections=64,
                # Ours are SHA-256, and other stores than Amazon's do not know the rest.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            with errors(ObjectPath("")):
                _client = get_session().create_client("s3", config=config)
        return _client


def close() -> None:
    """Let go of the client and its connections."""
    global _client
    with _lock:
        if _client is not None:
            _client.close()
            _client = None


def patiently(work: Callable[[], Result], what: str, patience: float) -> Result:
    """What ``work`` gives, which may be done several times, as long as the store is Unreachable and ``patience``
    seconds are not over. Raises OSError."""
    deadline, told = Deadline.after(patience), False
    while True:
        try:
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
