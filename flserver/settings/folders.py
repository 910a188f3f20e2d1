"""Where models lie: a folder on a disk, or a prefix in a bucket of an object store. Pure."""

import re
from dataclasses import dataclass
from pathlib import Path

from flserver.errors import UsageError

SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")


@dataclass(frozen=True, order=True)
class ObjectPath:
    """``s3://bucket/key``: an object, or the beginning that the names of several have in common.

    It holds no credentials, so it may stand on record and in logs.
    """

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> "ObjectPath":
        """Raises UsageError, which does not show what may be a secret."""
        bucket, _, key = text.removeprefix(SCHEME).partition("/")
        if "@" in bucket or ("@" in key and ":" in bucket):
            raise UsageError(
                f"{SCHEME}…: an address holds no credentials. Give them by the environment (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY) or in ~/.aws/credentials"
            )
        parts = [part for part in key.split("/") if part]
        printable = key.isprintable() and not any(sign in key for sign in "?#\\")
        if not _BUCKET.fullmatch(bucket) or not printable or any(part in (".", "..") for part in parts):
            raise UsageError(f"{SCHEME}…: that is no address in an object store; one is s3://bucket/prefix")
        return cls(bucket, "/".join(parts))

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """That, without what stands behind the last dot."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> "ObjectPath":
        """Without its last part."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def below(self, folder: "ObjectPath") -> str:
        """What stands behind ``folder``, below which it lies."""
        return self.key.removeprefix(folder.key).lstrip("/")

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")


Folder = Path | ObjectPath


def folder_of(text: str) -> Folder:
    """What ``--checkpoint-dir`` names. Raises UsageError."""
    return ObjectPath.parse(text) if text.startswith(SCHEME) else Path(text)


def absolute(text: str) -> str:
    """The same place, named from whatever folder. Raises UsageError."""
    place = folder_of(text)
    return str(place if isinstance(place, ObjectPath) else place.absolute())
