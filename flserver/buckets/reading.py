"""What lies in a bucket, listed and read."""

import errno
import io
from abc import abstractmethod
from typing import Any

from flserver.buckets.client import Unreachable, client, errors
from flserver.settings.folders import ObjectPath

REOPENED = 3  # times that a body is gone on with which broke off


def look(folder: ObjectPath) -> None:
    """Raises OSError where the store does not list what is below ``folder``; it may be nothing."""
    with errors(folder):
        client().list_objects_v2(Bucket=folder.bucket, Prefix=below(folder), MaxKeys=1)


def listed(folder: ObjectPath) -> tuple[list[str], list[str]]:
    """The names of the objects right below ``folder`` and of the folders there, each in order. Raises OSError."""
    names, folders, start = list[str](), list[str](), len(below(folder))
    with errors(folder):
        pages = client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=folder.bucket, Prefix=below(folder), Delimiter="/"):
            names += [entry["Key"][start:] for entry in page.get("Contents", ())]
            folders += [entry["Prefix"][start:].rstrip("/") for entry in page.get("CommonPrefixes", ())]
    return sorted(names), sorted(folders)


def exists(place: ObjectPath) -> bool:
    """Whether there is such an object. Raises OSError where that cannot be told."""
    try:
        with errors(place):
            client().head_object(Bucket=place.bucket, Key=place.key)
    except FileNotFoundError:
        return False
    return True


class Positioned(io.RawIOBase):
    """A file of so many bytes that is read from wherever somebody seeks; then ``_moved`` is called."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at != self._at:
            self._at = at
            self._moved()
        return at

    @abstractmethod
    def _moved(self) -> None:
        """It is read from elsewhere now."""


class ObjectReader(Positioned):
    """An object as a file that is read: one request from where it is read on, and another where that broke off.

    All of it is of the one version that was there first. Raises OSError.
    """

    def __init__(self, place: ObjectPath) -> None:
        self._place, self._body = place, None
        answer = self._get({})
        super().__init__(int(answer["ContentLength"]))
        self._tag, self._body = answer.get("ETag"), answer["Body"]

    def _moved(self) -> None:
        self._drop()

    def readinto(self, buffer: Any) -> int:
        """As many bytes as the buffer has, but at the end."""
        view, filled, broken = memoryview(buffer).cast("B"), 0, 0
        while filled < len(view) and self._at < self._size:
            try:
                with errors(self._place):
                    count = self._open().readinto(view[filled:])
                    if not count:
                        raise Unreachable(errno.EIO, "it broke off", str(self._place))
            except Unreachable:
                self._drop()
                if (broken := broken + 1) > REOPENED:
                    raise
                continue
            filled, self._at = filled + count, self._at + count
        return filled

    def close(self) -> None:
        self._drop()
        super().close()

    def _open(self) -> Any:
        if self._body is None:
            one_version = {"IfMatch": self._tag} if self._tag else {}
            self._body = self._get({"Range": f"bytes={self._at}-", **one_version})["Body"]
        return self._body

    def _get(self, how: dict[str, str]) -> dict[str, Any]:
        with errors(self._place):
            answer: dict[str, Any] = client().get_object(Bucket=self._place.bucket, Key=self._place.key, **how)
            return answer

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


def below(folder: ObjectPath) -> str:
    """What the keys of all that lies there begin with."""
    return f"{folder.key}/" if folder.key else ""
