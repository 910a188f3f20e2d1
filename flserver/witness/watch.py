"""One look at a server's newest head after another: fetched, checked, remembered, and only then cosigned."""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flserver.errors import HeadError, NoHead, Rewritten, UsageError
from flserver.heads.keys import PrivateKey, opened
from flserver.heads.note import MOST_BYTES, Note, PublicKey
from flserver.heads.proofs import Extension
from flserver.witness.keeping import Memory
from flserver.witness.view import extended

PATIENCE = 30.0  # seconds that a server is waited for
READS = (200, 409)  # 409: it has fewer events than were seen

Fetch = Callable[[int | None], str]
"""What ``/checkpoint`` gives, with the proof that it extends the head of so many events (None: of none)."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A head that extends all before it: ``size`` events, and ``before`` as many at the last look (None: the first).
    ``cosigned`` has the witness's signature."""

    size: int
    before: int | None
    cosigned: Note


def look(fetch: Fetch, log: PublicKey, key: PrivateKey, memory: Memory, now: Callable[[], float]) -> Seen | None:
    """Look once; None where there is nothing new. ``now`` gives Unix times in seconds.

    Raises Rewritten where the head does not extend what was seen: its answer is kept as evidence. Raises HeadError
    where an answer is none, NoHead where none came; OSError where it cannot be remembered: nothing is signed then.
    """
    newest = memory.newest
    seen = None if newest is None else opened(newest, log)
    text = fetch(None if seen is None else seen.size)
    answer = Extension.parse(text)
    try:
        head = extended(seen, answer, log)
    except Rewritten as error:
        raise Rewritten(f"{error}. What it signed is kept in {memory.refuse(text, answer.head)}") from error
    if seen is None or head.size > seen.size:
        memory.remember(answer.head)
    if memory.cosigned(head):
        return None
    cosigned = Note(answer.head.text, answer.head.signatures).signed(key.cosign(answer.head, int(now())))
    memory.keep(cosigned)
    return Seen(size=head.size, before=None if seen is None else seen.size, cosigned=cosigned)


def fetcher(source: str) -> Fetch:
    """Asks the server at an address such as ``http://host:9464``, or reads a file. Raises UsageError."""
    parts = urllib.parse.urlsplit(source)
    if parts.scheme in ("http", "https") and parts.netloc:
        path = parts.path if parts.path.strip("/") else "/checkpoint"
        return lambda since: _asked(f"{parts.scheme}://{parts.netloc}{path}", since)
    if parts.scheme in ("", "file") and not parts.netloc and parts.path:
        return lambda since: _read(Path(parts.path))
    raise UsageError(f"{source!r} is neither an address such as http://host:9464, nor a file")


def _asked(url: str, since: int | None) -> str:
    request = url if since is None else f"{url}?since={since}"
    try:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                status, body = answer.status, answer.read(2 * MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, error.read(2 * MOST_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoHead(f"{url}: {getattr(error, 'reason', None) or error}") from error
    if status not in READS:
        said = body[:200].decode("utf-8", "replace").strip()
        raise NoHead(f"{url}: answered {status}: {said!r}")
    return _text(body, url)


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return _text(file.read(2 * MOST_BYTES + 1), str(path))
    except OSError as error:
        raise NoHead(f"{path}: {error.strerror}") from error


def _text(body: bytes, where: str) -> str:
    if len(body) > 2 * MOST_BYTES:
        raise HeadError(f"{where}: gave more than {2 * MOST_BYTES} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise HeadError(f"{where}: gave what is no text") from error
