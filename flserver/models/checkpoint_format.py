"""The bytes of a checkpoint file: written by us, read by the safetensors library."""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from flserver.errors import CheckpointError
from flserver.models.digests import check_digest, sha256_of
from flserver.models.state import TORCH_DTYPES, State, raw_bytes
from flserver.wire.dtypes import DTYPES

STRATEGY_PREFIX = "__strategy__."
FORMAT = "flserver checkpoint 1"
CODES = {TORCH_DTYPES[dtype.name]: dtype.code for dtype in DTYPES.values()}


def read(path: Path, digest: str | None) -> tuple[State, State]:
    """The model's and the strategy's tensors in a checkpoint file.

    Raises CheckpointError where it is missing, does not match ``digest`` or is not a checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: {error.strerror}") from error
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
    """The bytes of a safetensors file, in pieces that do not copy the tensors.

    Source: the safetensors format, https://github.com/huggingface/safetensors#format. The library itself writes only
    whole files that it names, without fsync, and copies every tensor first.
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
    """Bytes on disk for a run of ``rounds`` rounds: all of them, or the newest ``keep``, the best and the next."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.values()) + 4096 + 160 * len(model)
    files = rounds + 1 if keep == 0 else min(rounds + 1, keep + 2)
    return size * files
