"""One rounding, from float64 to whatever a tensor is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation.strategies.rounding import round_once


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float64_is_rounded_once(dtype: torch.dtype) -> None:
    # Just above the middle of two neighbours: by way of float32 it would fall on the middle, and then to even.
    low, high = (
        torch.tensor([1.0], dtype=dtype),
        torch.nextafter(torch.tensor([1.0], dtype=dtype), torch.tensor([2.0], dtype=dtype)),
    )
    middle = (low.double() + high.double()) / 2
    for nudge, expected in ((2.0**-40, high), (-(2.0**-40), low), (0.0, low)):
        for sign in (1.0, -1.0):
            got = round_once(sign * (middle + nudge), dtype)
            assert torch.equal(got, (sign * expected.double()).to(dtype))
    assert middle.to(dtype).item() == low.item()


@given(st.lists(st.floats(-70000, 70000), min_size=1, max_size=20))
def test_float16_equals_a_direct_conversion(values: list[float]) -> None:
    wide = np.array(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        expected = wide.astype(np.float16)
    got = round_once(torch.from_numpy(wide), torch.float16).numpy()
    assert got.tobytes() == expected.tobytes()
