"""The bytes of a checkpoint file: written by us, read by the safetensors library."""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from flserver.errors import CheckpointError
from flserver.models.digests import check_digest, sha256_of, unreadable
from flserver.models.state import TORCH_DTYPES, State, raw_bytes
from flserver.wire.dtypes import DTYPES

STRATEGY_PREFIX = "__strategy__."
FORMAT = "flserver checkpoint 1"
HEADER_BYTES = 4096  # generous for what a file holds besides its tensors and their entries
ENTRY_BYTES = 160  # a tensor's name, dtype, shape and place in the header: some 90 with torchvision's names
CODES = {TORCH_DTYPES[dtype.name]: dtype.code for dtype in DTYPES.values()}


def read(path: Path, digest: str | None) -> tuple[State, State]:
    """Read the model's and the strategy's tensors from the checkpoint file at ``path``.

    Raises CheckpointError where the file is missing, has another digest than ``digest`` (``sha256:hex``; None: any) or
    is no checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if digest is not None:
        check_digest(path, digest, sha256_of([content]))
    try:
        tensors = load_safetensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint {path} is not a safetensors file: {error}") from error
    # The library sorts by offset; the record's order is the order of the names in the file.
    model = {name: t for name, t in tensors.items() if not name.startswith(STRATEGY_PREFIX)}
    strategy = {n.removeprefix(STRATEGY_PREFIX): t for n, t in tensors.items() if n.startswith(STRATEGY_PREFIX)}
    return model, strategy


def serialize(model: State, strategy: State) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file with both states' tensors, in pieces. No piece is a copy of a tensor.

    Equal states give equal bytes, whatever the order of their names. Raises CheckpointError, before the first piece,
    where a tensor's dtype is none of :data:`flserver.wire.dtypes.DTYPES`. Source: the safetensors format,
    https://github.com/huggingface/safetensors#format. The library itself writes only whole files that it names, without
    fsync, and copies every tensor first.
    """
    own = {STRATEGY_PREFIX + name: tensor for name, tensor in strategy.items()}
    # A dict's order is no part of a state, but would be of the digest. Wide elements first keeps all of them aligned.
    tensors = dict(sorted((model | own).items(), key=lambda item: (-item[1].element_size(), item[0])))
    header: dict[str, object] = {"__metadata__": {"format": "pt", "writer": FORMAT}}
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
