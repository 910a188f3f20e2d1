"""The zip of a bundle: names in order, nothing compressed, no times. ``verify.py`` takes it in this form alone."""

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

from flserver.errors import UsageError
from flserver.evidence.verify import EVENTS, MOST_BYTES, MOST_WHOLE, canonical

MANIFEST = "bundle.json"
PIECE = 2**20
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can name
UNIX, PLAIN_FILE = 3, 0o100644 << 16
MOST_FILES = 2**16 - 1
AROUND = 2**20
"""Bytes left for what stands around the files."""


def fill(to: BinaryIO, files: Mapping[str, bytes], streams: Mapping[str, BinaryIO], about: Mapping[str, Any]) -> None:
    """Write all files, those in ``streams`` from their beginnings, and with them the manifest: what the bundle is
    ``about``, and the SHA-256 of every other file. Raises UsageError where that is more than a bundle holds."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    total = sum(map(len, files.values())) + 200 * len(files)
    for name, stream in streams.items():
        stream.seek(0)
        digests[name] = sha256_of(stream)
        total += stream.tell()
    if total + AROUND > MOST_BYTES:
        raise UsageError("a bundle holds 2 GiB: ask for one round, RUN:ROUND, and hand the model over beside it")
    whole = {**files, MANIFEST: canonical({**about, "files": digests})}
    large = [name for name in whole if name != EVENTS and len(whole[name]) > MOST_WHOLE]
    if large or len(whole) + len(streams) > MOST_FILES:
        what = f"{large[0]} is larger than {MOST_WHOLE >> 20} MiB" if large else "the run has too many rounds"
        raise UsageError(f"{what}, and no bundle holds that: ask for one round, RUN:ROUND")
    with zipfile.ZipFile(to, "w") as zipped:
        for name in sorted((*whole, *streams)):
            entry = zipfile.ZipInfo(name, FIRST_DAY)
            entry.create_system, entry.external_attr = UNIX, PLAIN_FILE
            if name in whole:
                zipped.writestr(entry, whole[name])
                continue
            streams[name].seek(0)
            with zipped.open(entry, "w") as file:
                shutil.copyfileobj(streams[name], file)


def sha256_of(stream: BinaryIO) -> str:
    """In hex, of what is from here on."""
    hashed = hashlib.sha256()
    while piece := stream.read(PIECE):
        hashed.update(piece)
    return hashed.hexdigest()
