"""States that processes of one machine have in common, each in a file that has no name, in memory.

Who was given its descriptor can map it, and nobody else; it is gone with the last who has it open or mapped, however
that one ends. It is sealed: none of them can change it, or take away what others read.
"""

import errno
import os
from collections.abc import Sequence
from fcntl import F_ADD_SEALS, F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flserver.models.pages import mapped
from flserver.models.state import Pieces, State, raw_bytes

SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL
ALIGNED = 64  # bytes, at a multiple of which each tensor begins


class Value(NamedTuple):
    """A state in the file of that ``descriptor``: its tensors as name, dtype, shape and first byte."""

    descriptor: int
    tensors: Sequence[tuple[str, str, Sequence[int], int]]


def put(states: Sequence[Pieces]) -> tuple[int, list[Value]]:
    """A new file with these states: its descriptor, which is the caller's to close, and where they are. Raises
    OSError."""
    values, at = [], 0
    descriptor = os.memfd_create("flserver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for state in states:
            tensors: list[tuple[str, str, Sequence[int], int]] = []
            for name, given in state.items():
                one, rows = (given, ()) if isinstance(given, Tensor) else (given[0], given)
                shape = [len(rows), *one.shape] if rows else list(one.shape)
                tensors.append((name, str(one.dtype).removeprefix("torch."), shape, at))
                for tensor in rows or (one,):
                    if tensor.numel():
                        _write(descriptor, raw_bytes(tensor), at)
                    at += tensor.nbytes
                at = -(-at // ALIGNED) * ALIGNED
            values.append(Value(descriptor, tensors))
        os.ftruncate(descriptor, at or 1)
        fcntl(descriptor, F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, values


def _write(descriptor: int, raw: memoryview, at: int) -> None:
    while raw:
        done = os.pwrite(descriptor, raw, at)
        raw, at = raw[done:], at + done


def memory_of(descriptor: int) -> memoryview:
    """The whole file, to be read; the descriptor may be closed. Raises OSError, also where who gave it can change it
    still."""
    if fcntl(descriptor, F_GET_SEALS) & SEALS != SEALS:
        raise OSError(errno.EPERM, "it is not sealed")
    return mapped(descriptor, os.fstat(descriptor).st_size, writable=False)


def state_in(memory: memoryview, tensors: Sequence[Sequence[Any]]) -> State:
    """A value's state, over the file's ``memory``: not to be written to."""
    flat, state = torch.frombuffer(memory, dtype=torch.uint8), {}
    for name, kind, shape, at in tensors:
        dtype, size = getattr(torch, kind), torch.Size(shape)
        state[name] = flat[at : at + size.numel() * dtype.itemsize].view(dtype).view(size)
    return state
