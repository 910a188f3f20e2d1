"""Federated training without federation: the same work as three trainers and a server, in one loop, by the documents.

python reference.py DATA INITIAL.safetensors ROUNDS OUT.safetensors ID [ID ...]
"""

import copy
import json
import math
import sys
from fractions import Fraction

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

torch.set_num_threads(1)
data, initial, rounds, out, *ids = sys.argv[1:]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 10)

    def forward(self, x):
        return F.log_softmax(self.fc1(torch.flatten(x, 1)), dim=1)


def train(received, x, y):
    model = copy.deepcopy(received)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.7)
    for _ in range(8):
        optimizer.zero_grad()
        F.nll_loss(model(x), y).backward()
        optimizer.step()
    return model.state_dict()


def nearest(value):
    """The float32 that is nearest to a fraction, ties to even."""
    unit = Fraction(2) ** max(-149, math.frexp(value)[1] - 26)  # too small, or the smallest there is
    while abs(value) >= unit * 2**24:
        unit *= 2
    return float(round(value / unit) * unit)  # round() goes to even


def mean(tensors, weights):
    """The mean as FedAvg defines it: the exact sum over the exact number of samples, rounded once."""
    total = sum(weights)
    columns = zip(*(tensor.flatten().tolist() for tensor in tensors), strict=True)
    exact = (sum(n * Fraction(w) for n, w in zip(weights, column, strict=True)) / total for column in columns)
    return torch.tensor([nearest(value) for value in exact]).view(tensors[0].shape)


shares = {}
for client in ids:
    with open(f"{data}/train/mnist_train_client{client}.json") as file:
        user = json.load(file)["user_data"]["0"]
    shares[client] = torch.tensor(user["x"], dtype=torch.float32), torch.tensor(user["y"]).long()

model = Net()
model.load_state_dict(load_file(initial))
for _ in range(int(rounds)):
    trained = [train(model, x, y) for x, y in shares.values()]
    weights = [len(y) for _, y in shares.values()]
    model.load_state_dict({name: mean([state[name] for state in trained], weights) for name in model.state_dict()})
save_file(model.state_dict(), out)
