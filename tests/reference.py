"""Federated training without federation: the same work as three trainers and a server, in one loop, by the documents.

python reference.py DATA INITIAL.safetensors ROUNDS OUT.safetensors ID [ID ...]
"""

import copy
import json
import sys

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


shares = {}
for client in sorted(ids):  # FedAvg adds in ascending order of the ids as text
    with open(f"{data}/train/mnist_train_client{client}.json") as file:
        user = json.load(file)["user_data"]["0"]
    shares[client] = torch.tensor(user["x"], dtype=torch.float32), torch.tensor(user["y"]).long()

model = Net()
model.load_state_dict(load_file(initial))
for _ in range(int(rounds)):
    sums = {name: torch.zeros(t.shape, dtype=torch.float64) for name, t in model.state_dict().items()}
    for x, y in shares.values():
        for name, tensor in train(model, x, y).items():
            sums[name] += tensor.double() * len(y)
    total = sum(len(y) for _, y in shares.values())
    model.load_state_dict({name: (s / total).float() for name, s in sums.items()})
save_file(model.state_dict(), out)
