"""Tensors over arrays that nobody may write to, as those of an object store are."""

import warnings

import numpy as np
import pytest
import torch

from flserver.models.state import tensor_over


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(3, 4), (0, 2), (5,)])
def test_a_read_only_array_is_read_where_it_lies(dtype: type, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = tensor_over(array)
    assert torch.equal(tensor, torch.tensor(array))
    assert not array.size or tensor.data_ptr() == array.ctypes.data
