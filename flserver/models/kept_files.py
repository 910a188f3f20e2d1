"""A kept update's file held against the digest that it is named by, read in pieces and without torch."""

import json
from io import RawIOBase
from math import prod
from typing import Any

import blake3

from flserver.errors import CheckpointError
from flserver.models.digests import METADATA
from flserver.models.stored import opened, size_of
from flserver.settings.folders import Folder
from flserver.wire.dtypes import DTYPES

PIECE = 1 << 20  # bytes
MOST_HEADER = 100 << 20  # bytes: what the format's own library takes
_BY_CODE = {dtype.code: dtype for dtype in DTYPES.values()}


def check_kept_file(path: Folder) -> None:
    """Read the kept update at ``path``. Raises CheckpointError where it cannot be read, or is not what its name says:
    its tensors have another digest, or what stands before them is not what a server writes."""
    try:
        with opened(path) as file:
            found = _digest_of(file, path)
    except OSError as error:
        raise CheckpointError(f"kept update {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"kept update {path} was changed: it is no file of tensors ({error})") from error
    if found != "blake3:" + path.stem:
        raise CheckpointError(f"kept update {path} was changed: its tensors have the digest {found}")


def _digest_of(file: RawIOBase, path: Folder) -> str:
    """``blake3:hex`` as ``aggregation.checks.state_digest`` makes it."""
    size = size_of(file)
    length = int.from_bytes(_exactly(file, 8), "little")
    if length > MOST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    text = _exactly(file, length)
    header: dict[str, Any] = json.loads(text)
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    begins, at = dict[str, int](), 8 + length
    for name, entry in entries.items():
        begins[name] = at + entry["data_offsets"][0]
    if text != _written(entries) or size != at + _size(entries):
        raise CheckpointError(f"kept update {path} was changed: not in its tensors, but in what stands beside them")
    digest = blake3.blake3()
    for name in sorted(entries):
        kind, shape = _BY_CODE[entries[name]["dtype"]], entries[name]["shape"]
        head = f"{name}\0{kind.name}\0{'x'.join(map(str, shape))}\0".encode("utf-8", "surrogatepass")
        digest.update(len(head).to_bytes(8, "little") + head)
        file.seek(begins[name])
        left = prod(shape) * kind.size
        while left:
            piece = _exactly(file, min(left, PIECE))
            digest.update(piece)
            left -= len(piece)
    return "blake3:" + digest.hexdigest()


def _written(entries: dict[str, Any]) -> bytes:
    """The header that ``checkpoint_format.serialize`` writes for such tensors."""
    header, offset = {"__metadata__": METADATA}, 0
    for name in sorted(entries, key=lambda name: (-_BY_CODE[entries[name]["dtype"]].size, name)):
        size = _size({name: entries[name]})
        said = {"dtype": entries[name]["dtype"], "shape": entries[name]["shape"]}
        header[name] = said | {"data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _size(entries: dict[str, Any]) -> int:
    return sum(prod(entry["shape"]) * _BY_CODE[entry["dtype"]].size for entry in entries.values())


def _exactly(file: RawIOBase, count: int) -> bytes:
    found = bytearray()
    while len(found) < count and (piece := file.read(count - len(found))):
        found += piece
    if len(found) < count:
        raise ValueError("it ends too early")
    return bytes(found)
