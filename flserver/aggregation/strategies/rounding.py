"""One rounding from float64 to the tensor's dtype.

torch converts float64 to float16 and bfloat16 by way of float32, which rounds twice and can land on the neighbour.
Rounding to float32 *to odd* first keeps what the second rounding needs to know (Boldo and Melquiond, "Emulation of FMA
and correctly rounded sums: proved algorithms using rounding to odd", 2008: float32 has more than two bits to spare).
"""

import torch


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A new tensor: ``values``, float64 of any shape, rounded to the nearest ``dtype``, ties to even.

    ``dtype`` is float64, float32, float16 or bfloat16.
    """
    if dtype == torch.float64:
        return values.clone()
    nearest = values.to(torch.float32)
    if dtype == torch.float32:
        return nearest
    inexact = nearest.to(torch.float64) != values
    away = nearest.to(torch.float64).abs() > values.abs()
    bits = nearest.view(torch.int32)
    # Towards zero, then the last bit set where anything was cut off; floats of one sign are ordered as their bits.
    bits -= (inexact & away).to(torch.int32)
    bits |= inexact.to(torch.int32)
    return nearest.to(dtype)
