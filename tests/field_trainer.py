"""A trainer as they are in the field: plain ``pickle``, ``socket`` and torch (1.13 or later), nothing of this project.

It follows the protocol's description to the letter, its careless parts too: one ``recv(8)`` is taken as the whole
length, bodies are read in pieces of 1,024 bytes, an unexpected end of file is a crash. On request it misbehaves.
"""

import argparse
import copy
import json
import os
import pickle
import socket
import sys
import threading

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "field"))
import neural_net_helper  # noqa: F401 - pickle.loads looks the model's class up in it


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--client-id", required=True, help="sent as an integer where it is one")
    parser.add_argument("--server-port", type=int, default=50052)
    parser.add_argument("--data", default="FLdata", help="the folder with train/ and test/")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--freeze-at-round", type=int, help="stop for ever when this model has come")
    parser.add_argument("--die-at-round", type=int, help="die in the middle of training this model")
    parser.add_argument("--upload-twice", action="store_true")
    parser.add_argument("--upload-delay", type=float, default=0.0, help="seconds between training and upload")
    return parser.parse_args()


def read_data(path, device):
    with open(path) as file:
        user = json.load(file)["user_data"]["0"]
    return torch.tensor(user["x"], dtype=torch.float32).to(device), torch.tensor(user["y"]).long().to(device)


def receive(connection):
    length = int.from_bytes(connection.recv(8), "big")
    if length == 0:
        raise EOFError("the server closed the connection")
    body = b""
    while len(body) < length:
        piece = connection.recv(min(1024, length - len(body)))
        if not piece:
            raise EOFError("the server closed the connection")
        body += piece
    return body


def send(connection, body):
    connection.sendall(len(body).to_bytes(8, "big"))
    connection.sendall(body)


def upload(port, message):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        send(connection, pickle.dumps(message))


def measure(model, train, test):
    with torch.no_grad():
        loss = F.nll_loss(model(train[0]), train[1]).item()
        accuracy = (model(test[0]).argmax(1) == test[1]).float().mean().item() * 100
    return loss, accuracy


def train_copy(received, data, epochs, learning_rate, die):
    model = copy.deepcopy(received)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for epoch in range(epochs):
        if die and epoch == epochs // 2:
            os._exit(1)
        optimizer.zero_grad()
        F.nll_loss(model(data[0]), data[1]).backward()
        optimizer.step()
    return model


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    client_id = int(arguments.client_id) if arguments.client_id.isdigit() else arguments.client_id
    device = arguments.device
    train = read_data(os.path.join(arguments.data, "train", f"mnist_train_client{client_id}.json"), device)
    test = read_data(os.path.join(arguments.data, "test", f"mnist_test_client{client_id}.json"), device)

    connection = socket.create_connection(("127.0.0.1", arguments.server_port))
    metadata = {"header": "<METADATA>", "id": client_id, "data_size": len(train[1])}
    send(connection, json.dumps(metadata).encode("utf-8"))
    reply = json.loads(receive(connection).decode("utf-8"))
    print(reply["msg"], flush=True)
    if reply["header"] != "<SUCCESS>":
        return 1

    count = 0
    while True:
        message = pickle.loads(receive(connection))
        if message["header"] == "<FINISHED>":
            print("finished", flush=True)
            return 0
        count += 1
        if count == arguments.freeze_at_round:
            print(f"model {count}: frozen", flush=True)
            threading.Event().wait()
        received = message["model"].to(device)
        loss, accuracy = measure(received, train, test)
        print(f"model {count}: training loss {loss:.4f}, test accuracy {accuracy:.2f} %", flush=True)
        die = count == arguments.die_at_round
        model = train_copy(received, train, arguments.epochs, arguments.learning_rate, die)
        threading.Event().wait(arguments.upload_delay)
        for _ in range(2 if arguments.upload_twice else 1):
            upload(arguments.server_port, {"header": "<MODEL>", "id": client_id, "model": model})


if __name__ == "__main__":
    sys.exit(main())
