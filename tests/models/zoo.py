"""Models of the kinds that people train, small: each takes (N, 784) or (N, 1, 28, 28) and gives (N, 10).

For ``--model tests.models.zoo:NAME`` too, and for plain pickle: whoever loads one has this module.
"""

import warnings

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Many tensors of one layer, which a GPU keeps in one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 48, num_layers=2, batch_first=True)
        self.out = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.out(self.lstm(x.reshape(-1, 28, 28))[0][:, -1]), 1)


def recurrent() -> nn.Module:
    return Recurrent()


class Adapter(nn.Module):
    """A frozen layer with a low-rank pair beside it, kept as adapter libraries keep them: in dicts of modules."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.drop, self.a, self.b = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.embed_a, self.embed_b, self.magnitude = nn.ParameterDict(), nn.ParameterDict(), nn.ModuleDict()
        self.drop["default"] = nn.Identity()
        self.a["default"] = nn.Linear(base.in_features, rank, bias=False)
        self.b["default"] = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        low: Tensor = self.b["default"](self.a["default"](self.drop["default"](x)))
        return self.base(x) + low


def adapters(count: int = 500) -> nn.Module:
    """Three tensors and eleven modules for each of ``count`` layers."""
    layers = (Adapter(nn.Linear(4, 4, bias=False)) for _ in range(count))
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4), *layers, nn.Linear(4, 10), nn.LogSoftmax(1))


class Classifier(nn.Module):
    """A body that its factory gives it, then ten log-probabilities. Its class takes arguments, so nobody makes one by
    calling it."""

    def __init__(self, body: nn.Module, *, width: int) -> None:
        super().__init__()
        self.body = body
        self.out = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.out(torch.relu(self.body(torch.flatten(x, 1)))), 1)


def weight_norm() -> nn.Module:
    """Works by a hook, and keeps what that computes in an attribute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's newer one cannot be pickled
        return Classifier(nn.utils.weight_norm(nn.Linear(784, 8)), width=8)


def spectral_norm() -> nn.Module:
    """The same, with buffers and hooks of three kinds."""
    return Classifier(nn.utils.spectral_norm(nn.Linear(784, 8)), width=8)


def parametrized() -> nn.Module:
    """torch refuses to pickle these."""
    return Classifier(nn.utils.parametrizations.spectral_norm(nn.Linear(784, 8)), width=8)


def lazy() -> nn.Module:
    """Without a dry run: nobody knows its shapes."""
    return Classifier(nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d()), width=8)


def dry_run() -> nn.Module:
    module = lazy()
    module(torch.rand(2, 784))
    return module


class Odd(nn.Module):
    """Tensors of no dimension and of no elements, and a buffer that is not in the state."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.nothing = nn.Parameter(torch.empty(0, 3))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("seen", torch.empty(0, dtype=torch.int64))
        self.register_buffer("shift", torch.linspace(0, 1, 784), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift + self.nothing.sum()  # type: ignore[operator]


def odd() -> nn.Module:
    return Classifier(nn.Sequential(Odd(), nn.Linear(784, 8)), width=8)


def everything() -> nn.Module:
    """All of these in one, but for what cannot be served."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normed = nn.utils.weight_norm(nn.Linear(784, 12))
    body = nn.Sequential(Odd(), normed, nn.utils.spectral_norm(nn.Linear(12, 12)), nn.LazyLinear(8))
    module = Classifier(body, width=8)
    module(torch.rand(2, 784))
    return module


def one_buffer(module: nn.Module) -> nn.Module:
    """The same module, its parameters now views of one buffer: ``vector_to_parameters`` leaves them so, and an LSTM on
    a GPU its own. torch pickles all of that buffer with each of them."""
    vector = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    nn.utils.vector_to_parameters(vector, module.parameters())
    return module
