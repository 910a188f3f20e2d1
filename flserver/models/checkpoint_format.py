"""The bytes of a checkpoint file: a safetensors file that is in memory once, however large, also while it is read."""

import json
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from flserver.errors import CheckpointError
from flserver.models.digests import METADATA, check_digest, sha256_of, unreadable
from flserver.models.pages import anonymous
from flserver.models.state import TORCH_DTYPES, State, raw_bytes
from flserver.models.stored import opened, size_of
from flserver.settings.folders import Folder
from flserver.wire.dtypes import DTYPES

STRATEGY_PREFIX = "__strategy__."
HEADER_BYTES = 4096  # generous for what a file holds besides its tensors and their entries
ENTRY_BYTES = 160  # a tensor's name, dtype, shape and place in the header: some 90 with torchvision's names
CODES = {TORCH_DTYPES[dtype.name]: dtype.code for dtype in DTYPES.values()}
BY_CODE = {code: dtype for dtype, code in CODES.items()}


def read(path: Folder, digest: str | None) -> tuple[State, State]:
    """Read the model's and the strategy's tensors from the checkpoint file at ``path``. The model's lie in one piece of
    memory, which holds the file.

    Raises CheckpointError where the file is missing, has another digest than ``digest`` (``sha256:hex``; None: any) or
    is no checkpoint.
    """
    try:
        content = _content(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if digest is not None:
        check_digest(path, digest, sha256_of([content]))
    try:
        tensors = dict(_tensors(content))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} is not a safetensors file: {error}") from error
    model = {name: t for name, t in tensors.items() if not name.startswith(STRATEGY_PREFIX)}
    # Copied, because a strategy may keep them for longer than the model.
    own = {n.removeprefix(STRATEGY_PREFIX): t.clone() for n, t in tensors.items() if n.startswith(STRATEGY_PREFIX)}
    return model, own


def _content(path: Folder) -> memoryview:
    """All of a file. Raises OSError."""
    with opened(path) as file:
        size = size_of(file)
        content, at = memoryview(anonymous(max(size, 1)))[:size], 0
        while at < size and (count := file.readinto(content[at:])):
            at += count
    return content[:at]


def _tensors(content: memoryview) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file, in the order in which they lie there, as views of its ``content``.

    Raises ValueError, TypeError, KeyError or RecursionError where it is none: as strict as the format's own library on
    where the tensors lie.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    if not 8 < start <= len(content):
        raise ValueError("its header is not whole")
    header = json.loads(bytes(content[8:start]))
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    header.pop("__metadata__", None)
    data, covered = content[start:], 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, end) = BY_CODE[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"{name} has a shape or a place that is none")
        size = math.prod(shape) * dtype.itemsize
        if end - begin != size or begin != covered or end > len(data):
            raise ValueError(f"{name} does not lie where it has to")
        covered = end
        flat = torch.frombuffer(data, dtype=dtype, count=size // dtype.itemsize, offset=begin) if size else None
        yield name, torch.empty(shape, dtype=dtype) if flat is None else flat.view(shape)
    if covered != len(data):
        raise ValueError("something follows its tensors")


def serialize(
    model: State, strategy: State, metadata: Mapping[str, str] = MappingProxyType({})
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file with both states' tensors, and ``metadata`` beside the format's own, in pieces.
    Only of a tensor that is not contiguous is its piece a copy.

    Equal states give equal bytes, whatever the order of their names. Raises CheckpointError, before the first piece,
    where a tensor's dtype is none of :data:`flserver.wire.dtypes.DTYPES`. Source: the safetensors format,
    https://github.com/huggingface/safetensors#format. The library itself writes only whole files that it names, without
    fsync, and copies every tensor first.
    """
    own = {STRATEGY_PREFIX + name: tensor for name, tensor in strategy.items()}
    # A dict's order is no part of a state, but would be of the digest. Wide elements first keeps all of them aligned.
    tensors = dict(sorted((model | own).items(), key=lambda item: (-item[1].element_size(), item[0])))
    header: dict[str, object] = {"__metadata__": METADATA | dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in CODES:
            raise CheckpointError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}: no checkpoint can hold that")
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            yield raw_bytes(tensor)


def estimate(model: State, rounds: int, keep: int) -> int:
    """About how many bytes the checkpoints of ``rounds`` more rounds of ``model`` need on the disk.

    ``keep`` is ``--keep-checkpoints``: with 0 all of them stay, and the one they begin from; else the newest ``keep``,
    the best and, while it is written, the next.
    """
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in model.values())
    size = tensors + HEADER_BYTES + ENTRY_BYTES * len(model)
    files = rounds + 1 if keep == 0 else min(rounds + 1, keep + 2)
    return size * files
