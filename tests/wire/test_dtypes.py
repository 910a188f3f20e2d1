"""The list of dtypes is torch's own, and safetensors'."""

import json

import pytest
import torch
from safetensors.torch import save

from flserver.wire.dtypes import DTYPES, Dtype


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_dtype_is_called_as_torch_and_safetensors_call_it(dtype: Dtype) -> None:
    zeros = torch.zeros(3, dtype=getattr(torch, dtype.name))
    assert zeros.element_size() == dtype.size
    assert zeros.dtype == getattr(torch, dtype.storage).dtype
    file = save({"zeros": zeros})
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    assert header["zeros"]["dtype"] == dtype.code
