"""The floor: the least that a server of this protocol does for a round that survives a power loss.

It sends one prepared body to every trainer, receives every answer into a buffer that is used again, does one float32
multiply-add pass over it, and writes one checkpoint (write, fsync, rename, fsync of the folder) before the next round.
It reads no pickle, checks nothing and records nothing, so a real server cannot beat it by more than noise.

    python -m tests.bench.floor --clients 8 --model 45 --rounds 6 --dir FOLDER
"""

import argparse
import json
import os
import pickle
import queue
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tests.bench.models import FACTORIES
from tests.bench.wire import receive_exactly, receive_length, send_frame

RECEIVERS = 2  # answers received at a time: more threads would only take turns on the interpreter's lock
SLACK = 4096  # bytes by which an answer may be longer than the model's message


class Floor:
    """Serves ``clients`` trainers for ``rounds`` rounds."""

    def __init__(self, body: bytes, numbers: int, clients: int, folder: Path) -> None:
        self._body, self._clients, self._folder = body, clients, folder
        self._sum = torch.zeros(numbers)
        self._lock = threading.Lock()  # guards _sum
        self._buffers: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
        for _ in range(RECEIVERS):
            self._buffers.put(torch.empty(len(body) + SLACK, dtype=torch.uint8))

    def run(self, listener: socket.socket, rounds: int) -> None:
        members = [self._admit(listener) for _ in range(self._clients)]
        with ThreadPoolExecutor(self._clients) as senders, ThreadPoolExecutor(RECEIVERS) as receivers:
            for number in range(1, rounds + 1):
                self._sum.zero_()
                work = [senders.submit(send_frame, member, self._body) for member in members]
                work += [receivers.submit(self._take, listener.accept()[0]) for _ in members]
                for done in work:
                    done.result()
                self._checkpoint(number)
        for member in members:
            send_frame(member, pickle.dumps({"header": "<FINISHED>"}))
            member.close()

    def _admit(self, listener: socket.socket) -> socket.socket:
        connection, _ = listener.accept()
        receive_exactly(connection, memoryview(bytearray(receive_length(connection))))
        send_frame(connection, json.dumps({"header": "<SUCCESS>", "msg": "welcome"}).encode())
        return connection

    def _take(self, connection: socket.socket) -> None:
        buffer = self._buffers.get()
        with connection:
            size = receive_length(connection)
            receive_exactly(connection, memoryview(buffer.numpy())[:size])  # type: ignore[arg-type]
        # Where the numbers lie in the pickle does not change what adding so many of them costs.
        values = buffer[: self._sum.numel() * 4].view(torch.float32)
        with self._lock:
            self._sum.add_(values, alpha=1 / self._clients)
        self._buffers.put(buffer)

    def _checkpoint(self, number: int) -> None:
        temporary = self._folder / "temporary"
        with temporary.open("wb") as file:
            file.write(self._body)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._folder / f"round-{number}")
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--model", required=True, choices=FACTORIES)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    module = FACTORIES[given.model]()
    body = pickle.dumps({"header": "<MODEL>", "model": module})
    numbers = sum(parameter.numel() for parameter in module.parameters())
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        print(f"listening for trainers on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
        Floor(body, numbers, given.clients, given.dir).run(listener, given.rounds)


if __name__ == "__main__":
    main()
