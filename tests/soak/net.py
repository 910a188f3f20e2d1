"""The model of a soak: floats, and what is none and ends every trainer where it is wrong."""

import torch
from torch import nn


class Net(nn.Module):
    """``order`` are indices, ``mask`` booleans, ``norm.num_batches_tracked`` a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 10)
        self.norm = nn.BatchNorm1d(10)
        self.register_buffer("order", torch.arange(16))
        self.register_buffer("mask", torch.tensor([True, False, True]))
