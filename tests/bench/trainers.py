"""Trainers whose training costs nothing: each answers every model with the same one.

    python -m tests.bench.trainers --port P --clients 8 --model 45

A thread each, or with ``--crowd`` all in one. Prints one JSON line at the end: the fields of
:class:`tests.bench.answers.Outcome`.
"""

import argparse
import json
import queue
import socket
import threading
import time
from dataclasses import asdict

import torch

from flserver.clock import Deadline
from tests.bench.answers import FIRST_ID, SMALL, Answer, Outcome, registration
from tests.bench.crowd import Crowd
from tests.bench.models import FACTORIES, with_every_exponent
from tests.bench.wire import receive_exactly, receive_length, send_frame

KEPT = 64_000_000  # bytes: a trainer has room for so much of a model; of a longer one the end lies over the beginning
ANSWER_SECONDS = 5.0  # that registrations under way have once one trainer was let down: their answers are there by then


class Trainer(threading.Thread):
    """One trainer. ``received`` has the moment (seconds) at which each model and <FINISHED> was there; ``answered`` is
    set once it knows whether it is registered.

    Threads that still wait when it is clear how things end are left behind: they are daemons.
    """

    def __init__(self, port: int, client_id: int, answer: Answer, ended: "queue.SimpleQueue[Trainer]") -> None:
        super().__init__(name=f"trainer-{client_id}", daemon=True)
        self._address, self._id, self._answer, self._ended = ("127.0.0.1", port), client_id, answer, ended
        self.received: list[float] = []
        self.registered = self.finished = False
        self.answered = threading.Event()
        self.refusal: str | None = None
        self.failure: str | None = None

    def run(self) -> None:
        try:
            with socket.create_connection(self._address) as connection:
                self._register(connection)
                self.answered.set()
                if self.registered:
                    self._take_part(connection)
        except (OSError, EOFError) as error:
            if self.registered:
                self.failure = f"{type(error).__name__}: {error}"
            else:
                self.refusal = f"{type(error).__name__}: {error}"
        self.answered.set()
        self._ended.put(self)

    def _register(self, connection: socket.socket) -> None:
        send_frame(connection, registration(self._id))
        welcome = bytearray(receive_length(connection))
        receive_exactly(connection, memoryview(welcome))
        self.registered = json.loads(welcome)["header"] == "<SUCCESS>"
        self.refusal = None if self.registered else welcome.decode()

    def _take_part(self, connection: socket.socket) -> None:
        body = bytearray()
        while True:
            size = receive_length(connection)
            if len(body) < min(size, KEPT):
                body = bytearray(min(size, KEPT))
            for at in range(0, size, KEPT):
                receive_exactly(connection, memoryview(body)[: min(KEPT, size - at)])
            self.received.append(time.monotonic())
            if size < SMALL:
                self.finished = b"<FINISHED>" in body[:size]
                return
            with socket.create_connection(self._address) as upload:
                send_frame(upload, self._answer.shared, Answer.tail(self._id))


def a_thread_each(port: int, first: int, answers: list[Answer]) -> Outcome:
    """One trainer for each answer, until all have ended or one was let down."""
    ended: queue.SimpleQueue[Trainer] = queue.SimpleQueue()
    trainers = [Trainer(port, client_id, answer, ended) for client_id, answer in enumerate(answers, first)]
    for trainer in trainers:
        trainer.start()
    outcome = Outcome()
    for _ in trainers:
        one = ended.get()
        outcome.refusal, outcome.failure = one.refusal, one.failure
        if not one.finished:
            break
    deadline = Deadline.after(ANSWER_SECONDS)
    for trainer in trainers:
        trainer.answered.wait(deadline.remaining())
    outcome.registered = sum(trainer.registered for trainer in trainers)
    outcome.finished = sum(trainer.finished for trainer in trainers)
    outcome.moments = [max(moments) for moments in zip(*(trainer.received for trainer in trainers), strict=False)]
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--first", type=int, default=FIRST_ID, help="the first one's id")
    parser.add_argument("--model", required=True, choices=FACTORIES)
    parser.add_argument("--hostile", type=int, default=0, help="so many answer with every exponent in every tensor")
    parser.add_argument("--crowd", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    answer = Answer(FACTORIES[given.model]())
    answers = [answer] * (given.clients - given.hostile)
    if given.hostile:
        answers += [Answer(with_every_exponent(FACTORIES[given.model]()))] * given.hostile
    serve = Crowd.take_part if given.crowd else a_thread_each
    print(json.dumps(asdict(serve(given.port, given.first, answers))), flush=True)


if __name__ == "__main__":
    main()
