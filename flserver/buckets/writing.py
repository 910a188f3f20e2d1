"""Objects as they are made and removed: each goes with its SHA-256, and to put the same bytes again is safe."""

import errno
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

from flserver.buckets.client import Refused, Unreachable, client, errors
from flserver.buckets.reading import Positioned, below
from flserver.settings.folders import ObjectPath

ONE_PUT = 1 << 30  # bytes that go in one request; S3 takes five times as many
PART = 1 << 28  # bytes of a part of what is larger; S3 takes 10,000

_WRONG_CHECKSUM = {"BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest"}


def put(place: ObjectPath, pieces: Sequence[bytes | memoryview], digest: bytes) -> bool:
    """Make an object of all ``pieces``, whose SHA-256 is ``digest``, and return when it is durable: whether the store
    says that it has that sum. No piece is copied. Raises OSError; to put the same again is safe."""
    size = sum(map(len, pieces))
    try:
        with errors(place):
            if size > ONE_PUT:
                return _put_in_parts(place, pieces, size)
            body, sums = _Body(pieces, 0, size), _sums(digest)
            answer = client().put_object(Bucket=place.bucket, Key=place.key, Body=body, **sums)
            return bool(answer.get("ChecksumSHA256") == sums["ChecksumSHA256"])
    except Refused as error:
        if error.code not in _WRONG_CHECKSUM:
            raise
        raise Unreachable(errno.EIO, f"the bytes have changed on the way ({error.code})", str(place)) from error


def _put_in_parts(place: ObjectPath, pieces: Sequence[bytes | memoryview], size: int) -> bool:
    """Each part goes with a sum of its own, and the whole with the sum of those."""
    where, parts, digests = {"Bucket": place.bucket, "Key": place.key}, list[dict[str, Any]](), list[bytes]()
    where["UploadId"] = client().create_multipart_upload(**where, ChecksumAlgorithm="SHA256")["UploadId"]
    try:
        for number, start in enumerate(range(0, size, PART), 1):
            body = _Body(pieces, start, min(start + PART, size))
            digests.append(body.digest())
            sums = _sums(digests[-1])
            answer = client().upload_part(**where, PartNumber=number, Body=body, **sums)
            known = {"ChecksumSHA256": answer["ChecksumSHA256"]} if answer.get("ChecksumSHA256") else {}
            parts.append({"PartNumber": number, "ETag": answer["ETag"], **known})
        answer = client().complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    except BaseException:
        with suppress(Exception):  # a start looks for what is left
            client().abort_multipart_upload(**where)
        raise
    whole = b64encode(sha256(b"".join(digests)).digest()).decode()
    sums_of_parts = [b64encode(digest).decode() for digest in digests]
    return [part.get("ChecksumSHA256") for part in parts] == sums_of_parts and (
        answer.get("ChecksumSHA256") == f"{whole}-{len(parts)}"
    )


def refuses_other_bytes(place: ObjectPath) -> bool:
    """Whether the store holds what it is given against the SHA-256 that comes with it: it is given something at
    ``place`` that has another. Nothing stays there. Raises OSError where nothing could be put there."""
    try:
        with errors(place):
            client().put_object(Bucket=place.bucket, Key=place.key, Body=b"a", **_sums(sha256(b"b").digest()))
    except Refused as error:
        if error.code in _WRONG_CHECKSUM:
            return True
        raise
    remove(place)
    return False


def remove(place: ObjectPath) -> None:
    """Delete an object, which may be gone already. Raises OSError."""
    with errors(place):
        client().delete_object(Bucket=place.bucket, Key=place.key)


def abort_uploads(folder: ObjectPath) -> None:
    """Give up what was being uploaded in parts below ``folder`` when its server died. Raises OSError."""
    with errors(folder):
        pages = client().get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=folder.bucket, Prefix=below(folder)):
            for upload in page.get("Uploads", ()):
                client().abort_multipart_upload(Bucket=folder.bucket, Key=upload["Key"], UploadId=upload["UploadId"])


class _Body(Positioned):
    """The bytes from ``start`` to ``end`` of pieces, as a file that is not copied."""

    def __init__(self, pieces: Sequence[bytes | memoryview], start: int, end: int) -> None:
        self._pieces, at = list[memoryview](), 0
        for piece in pieces:
            view = memoryview(piece)
            if cut := view[max(start - at, 0) : max(end - at, 0)]:
                self._pieces.append(cut)
            at += len(view)
        super().__init__(end - start)
        self._piece, self._in_piece = 0, 0

    def digest(self) -> bytes:
        found = sha256()
        for piece in self._pieces:
            found.update(piece)
        return found.digest()

    def _moved(self) -> None:
        self._piece, self._in_piece = 0, self._at
        while self._piece < len(self._pieces) and self._in_piece >= len(self._pieces[self._piece]):
            self._in_piece -= len(self._pieces[self._piece])
            self._piece += 1

    def readinto(self, buffer: Any) -> int:
        if self._piece == len(self._pieces):
            return 0
        piece = self._pieces[self._piece]
        some = piece[self._in_piece : self._in_piece + len(buffer)]
        memoryview(buffer)[: len(some)] = some
        self._at, self._in_piece = self._at + len(some), self._in_piece + len(some)
        if self._in_piece == len(piece):
            self._piece, self._in_piece = self._piece + 1, 0
        return len(some)


def _sums(digest: bytes) -> dict[str, str]:
    return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": b64encode(digest).decode()}
