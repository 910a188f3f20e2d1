"""A model that is hard to take apart."""

import torch
from torch import nn


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
