"""The model of the runs under attack. The server can import it, so a reader that looked names up would succeed.

It has something of every kind that an update is held against: weights, floating-point buffers of two widths, integers,
booleans, and two names of one weight.
"""

import torch
from torch import nn

SPEC = f"{__name__}:Net"


class Net(nn.Module):
    """About 160 KB when pickled: above what a frame may use before it is given room."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(784, 48)
        self.norm = nn.BatchNorm1d(48)
        self.head = nn.Linear(48, 10)
        self.twin = nn.Linear(48, 10)
        self.twin.weight = self.head.weight
        self.register_buffer("scale", torch.ones(3, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([True, False]))


class Evil(Net):
    """The same tensors under the name of another class."""


class Drawer(torch.Tensor):
    """A tensor of a type of its own, whose numbers mean what its code says."""


class Command:
    """Runs a command in whoever unpickles it as Python does."""

    def __reduce__(self) -> tuple[object, ...]:
        from os import system

        return system, ("touch ran",)


def fixed_net() -> Net:
    """The same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Net()
