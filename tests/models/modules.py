"""Models that are hard to take apart, and models whose outputs are."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Awkward(nn.Module):
    """Tensors that do not fill their storage, ties, buffers of both kinds, a recurrent layer's own list of weights."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.twin = nn.Parameter(self.embedding.weight.data)
        self.transposed = nn.Parameter(torch.arange(6.0).reshape(2, 3).t(), requires_grad=False)
        self.sliced = nn.Parameter(torch.arange(1000.0)[10:14])
        self.rnn = nn.LSTM(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("scratch", torch.arange(4.0)[::2], persistent=False)
        self.register_buffer("flag", torch.tensor([True, False]))
        self.register_parameter("missing", None)


class Heads(NamedTuple):
    """What torchvision's googlenet gives in training; a head that was taken off is None."""

    logits: Tensor
    aux_logits2: Tensor | None
    aux_logits1: Tensor | None


@dataclass
class Classified:
    """What libraries of models give."""

    loss: Tensor | None
    logits: Tensor


class ModelOutput(OrderedDict):
    """A dict whose keys are attributes too."""

    def __getattr__(self, name):
        return self[name]


def in_a_dataclass(scores):
    return Classified(loss=None, logits=scores)


FORMS: Mapping[str, Callable[[Tensor], object]] = {
    "a tensor": lambda scores: scores,
    "a tuple of one": lambda scores: (scores,),
    "a tuple": lambda scores: (scores, scores + 1, None),
    "a list": lambda scores: [scores, scores + 1],
    "a tuple in a tuple": lambda scores: ((scores, scores + 1), scores + 2),
    "an object": lambda scores: SimpleNamespace(hidden=scores + 1, logits=scores),
    "a dataclass": in_a_dataclass,
    "a dict": lambda scores: {"hidden": scores + 1, "logits": scores},
    "a dict with attributes": lambda scores: ModelOutput(hidden=scores + 1, logits=scores),
    "a named tuple": lambda scores: Heads(logits=scores, aux_logits2=None, aux_logits1=None),
    "an object in a tuple": lambda scores: (in_a_dataclass(scores), scores + 1),
}
"""Scores, in every form in which models give them."""


class Shaped(nn.Module):
    """A model whose outputs ``form`` wraps."""

    def __init__(self, inner, form):
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, x):
        return self.form(self.inner(x))


class Squeezing(nn.Module):
    """Loses a dimension of a batch of one."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).squeeze()
