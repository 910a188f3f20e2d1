"""States to write into checkpoints, and whether one came back as it was."""

import torch
from torch import Tensor

from flserver.models.state import TORCH_DTYPES, State


def state() -> State:
    return {"fc1.weight": torch.arange(12.0).reshape(3, 4), "fc1.bias": torch.tensor([1.0, -2.0, 0.5])}


def same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].contiguous().view(-1).view(torch.uint8).tolist() == raw(tensor)


def raw(tensor: Tensor) -> list[int]:
    return list(tensor.contiguous().view(-1).view(torch.uint8).tolist())


def every_kind() -> State:
    made: State = {f"a.{name}": torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype) for name, dtype in TORCH_DTYPES.items()}
    made["scalar"] = torch.tensor(2.5)
    made["counter"] = torch.tensor(7)
    made["empty"] = torch.empty(0, 5)
    made["special"] = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324], dtype=torch.float64)
    made["transposed"] = torch.arange(6.0).reshape(2, 3).t()
    made["sliced"] = torch.arange(20.0)[3:17:2]
    return made
