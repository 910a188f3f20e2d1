"""Models of a wanted size, split over layers as real networks' are, for ``--model tests.bench.models:NAME``."""

import os

import torch
from torch import nn

BYTES_A_NUMBER = 4
WIDTH = 1024


def sequential(megabytes: float) -> nn.Module:
    """Linear layers of about ``megabytes`` (10⁶ bytes) of float32 together: 4.2 MB each, or a single smaller one."""
    numbers = megabytes * 1e6 / BYTES_A_NUMBER
    if numbers < WIDTH * WIDTH:
        width = round(numbers**0.5)
        return nn.Sequential(nn.Linear(width, width))
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(round(numbers / WIDTH**2))))


def mb_0_03() -> nn.Module:
    return sequential(0.03)


def mb_4_5() -> nn.Module:
    return sequential(4.5)


def mb_10() -> nn.Module:
    """MobileNetV3-Small: of many tensors, 244, some of them counters."""
    from torchvision.models import mobilenet_v3_small

    return mobilenet_v3_small()


def mb_45() -> nn.Module:
    return sequential(45)


def mb_400() -> nn.Module:
    return sequential(400)


def mb_800() -> nn.Module:
    return sequential(800)


def of_megabytes() -> nn.Module:
    """As large as the environment says."""
    return sequential(float(os.environ["BENCH_MEGABYTES"]))


def with_every_exponent(module: nn.Module) -> nn.Module:
    """The float32 model, each tensor now with every exponent there is, subnormal numbers' too, in turn and finite."""
    for parameter in module.parameters():
        numbers = torch.arange(parameter.numel(), dtype=torch.int64)
        bits = numbers % 255 << 23 | numbers * 2654435761 & 0x7FFFFF
        parameter.data = bits.to(torch.int32).view(torch.float32).reshape(parameter.shape)
    return module


FACTORIES = {"0.03": mb_0_03, "4.5": mb_4_5, "10": mb_10, "45": mb_45, "400": mb_400, "800": mb_800}
"""Every size that is measured, in MB as text, and its model."""
