"""One rounding of a quotient, by integers: what the compiled loops are held against too."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation.rounding import rounded, way_of
from tests.aggregation.exact import FORMATS, nearest, same_bits

QUOTIENTS = st.builds(
    lambda numerator, denominator, exponent: Fraction(numerator, denominator) * Fraction(2) ** exponent,
    st.integers(-(2**60), 2**60),
    st.sampled_from([1, 2, 3]) | st.integers(1, 2**53),
    st.integers(-160, 60),
)


@pytest.mark.parametrize("dtype", list(FORMATS))
@given(value=QUOTIENTS)
def test_it_is_the_nearest_number_also_where_the_dtype_is_narrower(dtype: torch.dtype, value: Fraction) -> None:
    if abs(value) > torch.finfo(dtype).max:
        return
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    got = torch.tensor(rounded(value, way_of(dtype)), dtype=torch.float64).to(kind).to(dtype)
    expected = torch.tensor(nearest(value, dtype), dtype=torch.float64).to(dtype)
    assert same_bits(got, expected) or value == 0 == got.item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_nearly_a_tie_is_rounded_once(dtype: torch.dtype) -> None:
    """By way of the nearest float32 it would fall on the tie, and then to even."""
    ulp = Fraction(torch.finfo(dtype).eps)
    for nudge, expected in ((Fraction(1, 2**40), 1 + ulp), (Fraction(-1, 2**40), Fraction(1)), (0, Fraction(1))):
        for sign in (1, -1):
            odd = rounded(sign * (1 + ulp / 2 + nudge), way_of(dtype))
            assert torch.tensor(odd, dtype=torch.float32).to(dtype).item() == sign * expected


def test_what_has_no_way_is_no_number_that_is_averaged() -> None:
    with pytest.raises(KeyError):
        way_of(torch.complex64)
