"""Trainers whose training costs nothing: each answers every model with the same one.

    python -m tests.bench.trainers --port P --clients 8 --model 45

Prints one JSON line at the end: the seconds of each round, from the moment when the last trainer has the model whole to
the moment when the last has the next one (or <FINISHED>).
"""

import argparse
import json
import pickle
import socket
import struct
import threading
import time
from itertools import pairwise

from tests.bench.models import FACTORIES
from tests.bench.wire import receive_exactly, receive_length, send_frame

FIRST_ID = 1001  # ids from here on are pickled in as many bytes, so that one answer serves all
SMALL = 4096  # bytes; <FINISHED> is smaller, every model larger


class Answer:
    """The pickled answer: a body that all trainers share, and a tail with the trainer's own id."""

    def __init__(self, model: object) -> None:
        whole = pickle.dumps({"header": "<MODEL>", "model": model, "id": FIRST_ID}, protocol=4)
        tail = self.tail(FIRST_ID)
        assert whole.endswith(tail)
        self.shared = memoryview(whole)[: -len(tail)]

    @staticmethod
    def tail(client_id: int) -> bytes:
        """The id, the end of the dict, the end of the pickle."""
        return pickle.BININT2 + struct.pack("<H", client_id) + pickle.SETITEMS + pickle.STOP


class Trainer(threading.Thread):
    """One trainer. ``received`` has the moment (seconds) at which each model and <FINISHED> was there."""

    def __init__(self, port: int, client_id: int, answer: Answer) -> None:
        super().__init__(name=f"trainer-{client_id}")
        self._address, self._id, self._answer = ("127.0.0.1", port), client_id, answer
        self.received: list[float] = []
        self.finished = False

    def run(self) -> None:
        with socket.create_connection(self._address) as connection:
            hello = {"header": "<METADATA>", "id": self._id, "data_size": 100 + self._id % 7}
            send_frame(connection, json.dumps(hello).encode())
            welcome = bytearray(receive_length(connection))
            receive_exactly(connection, memoryview(welcome))
            if json.loads(welcome)["header"] != "<SUCCESS>":
                raise ConnectionError(welcome.decode())
            body = bytearray()
            while True:
                size = receive_length(connection)
                if len(body) < size:
                    body = bytearray(size)
                receive_exactly(connection, memoryview(body)[:size])
                self.received.append(time.monotonic())
                if size < SMALL:
                    self.finished = b"<FINISHED>" in body[:size]
                    return
                with socket.create_connection(self._address) as upload:
                    send_frame(upload, self._answer.shared, Answer.tail(self._id))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--model", required=True, choices=FACTORIES)
    given = parser.parse_args()
    answer = Answer(FACTORIES[given.model]())
    trainers = [Trainer(given.port, FIRST_ID + number, answer) for number in range(given.clients)]
    for trainer in trainers:
        trainer.start()
    for trainer in trainers:
        trainer.join()
    if not all(trainer.finished for trainer in trainers):
        raise SystemExit("not every trainer was told <FINISHED>")
    last = [max(moments) for moments in zip(*(trainer.received for trainer in trainers), strict=True)]
    print(json.dumps([after - before for before, after in pairwise(last)]))


if __name__ == "__main__":
    main()
