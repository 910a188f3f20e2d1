"""The trainers, round after round: steady ones that always answer, and fickle ones that also leave, come back, answer
twice, answer with something that cannot count, claim what cannot be so, or break off. The last boasts of its data."""

import copy
import json
import random
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch

from flserver.wire.messages import MAX_DATA_SIZE
from tests.e2e.harness import NeuralNet, field_module, receive, send
from tests.patience import PATIENCE
from tests.soak.ledger import Ledger, SoakError, reset, until_closed
from tests.soak.models import State, on_grid
from tests.soak.strangers import sound_upload

STEADY = 2  # enough for a round without the others
FICKLE = 3
IN_ADVANCE = 8  # rounds that may be allowed before the steady trainers have answered them
BOASTER = STEADY + FICKLE  # its number
RETRY = 0.02  # seconds until a refused registration is tried again


class Turns:
    """How many models each trainer may answer so far, so that rounds are spread evenly over the soak."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards everything below
        self._given = 0
        self._over = False
        self._waiting: dict[int, int] = {}  # the models that each trainer, now waiting with one more, has answered

    def take(self, trainer: int, answered: int) -> bool:
        """Wait until a trainer that has answered so many models may answer another. False: the soak is over."""
        with self._changed:
            self._waiting[trainer] = answered
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over or self._given > answered)
            return not self._over

    def give(self) -> None:
        """Allow one more round. Raises SoakError where the steady trainers' rounds stand still."""
        with self._changed:
            self._wait(self._given - IN_ADVANCE)
            self._given += 1
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until the steady trainers have answered all they may, and have the next model."""
        with self._changed:
            self._wait(self._given)

    def _wait(self, answered: int) -> None:
        def reached() -> bool:
            return self._over or all(self._waiting.get(number, -1) >= answered for number in range(1, STEADY + 1))

        if not self._changed.wait_for(reached, PATIENCE):
            raise SoakError(f"no honest round for {PATIENCE:g} s, after {self._waiting} answers of {self._given}")
        if self._over:
            raise SoakError("an honest trainer failed")

    def end(self) -> None:
        """Nobody answers any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


class Mood(Enum):
    """What a trainer does with a model."""

    ANSWER = auto()
    ANSWER_TWICE = auto()
    ANSWER_BADLY = auto()
    CLAIM = auto()
    BREAK_OFF = auto()
    LEAVE = auto()
    RESET = auto()
    SPEAK = auto()


FICKLE_MOODS = {
    Mood.ANSWER: 10,
    Mood.ANSWER_TWICE: 2,
    Mood.ANSWER_BADLY: 2,
    Mood.CLAIM: 2,
    Mood.BREAK_OFF: 2,
    Mood.LEAVE: 2,
    Mood.RESET: 1,
    Mood.SPEAK: 1,
}


SOUND = {"loss": {"received": 2.0}, "accuracy": {"received": 0.5}}
CLAIMS = [
    {"loss": {"received": loss}, "accuracy": {"received": accuracy}}
    for loss, accuracy in ((1e300, 1e100), (float("nan"), -1.0), (float("-inf"), float("nan")), (1e9, 1.5))
]


@dataclass(frozen=True)
class Answers:
    """A trainer's uploads as bytes, made before it starts: training costs nothing here. All that can count have the
    tensors of ``state``."""

    state: State
    good: bytes
    again: bytes  # as good, with more metrics than are kept
    bad: Sequence[bytes]
    claiming: Sequence[bytes]

    @classmethod
    def of(cls, client_id: object) -> "Answers":
        nan, huge, wide, sound = NeuralNet(), NeuralNet(), NeuralNet(), on_grid(NeuralNet())
        torch.nn.init.constant_(nan.fc1.bias, float("nan"))
        torch.nn.init.constant_(huge.fc1.bias, 3e38)
        wide.fc1 = torch.nn.Linear(785, 10)
        metrics = {f"{number:03} " + "é" * 120: {"received": 1.0} for number in range(64)}
        with field_module():
            bad = [sound_upload(client_id, model) for model in (nan, huge, wide, copy.deepcopy(sound).double())]
            good, again, *claiming = (
                sound_upload(client_id, sound, metrics=numbers) for numbers in (SOUND, metrics, *CLAIMS)
            )
        return cls(sound.state_dict(), good, again, bad, claiming)


class Trainer(threading.Thread):
    """One trainer. ``registered`` is set when its first registration is through; ``state`` is what it sends."""

    def __init__(self, ledger: Ledger, turns: Turns, number: int, seed: int) -> None:
        super().__init__(name=f"trainer-{number}")
        self._ledger, self._turns, self._number = ledger, turns, number
        self._moods = random.Random(f"trainer {number} of {seed}")
        self._answers = Answers.of(number)
        self.state = self._answers.state
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()  # guards _retired, and _connection while another thread shuts it down
        self._retired = False
        self.registered = threading.Event()

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            if not self._retired:
                self._ledger.complain(f"honest trainer {self._number} failed: {type(error).__name__}: {error}")
                self._turns.end()
        finally:
            self.registered.set()
            with self._lock:
                connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def retire(self) -> None:
        """Leave for good, whatever it is doing."""
        with self._lock:
            self._retired = True
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)

    def _work(self) -> None:
        connection = self._register()
        self.registered.set()
        answered = 0
        while b"<FINISHED>" not in receive(connection)[:200]:
            if not self._turns.take(self._number, answered):
                return
            answered += 1
            mood = self._mood()
            if mood in (Mood.LEAVE, Mood.RESET, Mood.SPEAK):
                self._part(connection, mood)
                connection = self._register()
            else:
                self._upload(mood)
        raise EOFError("the server ended the run")

    def _mood(self) -> Mood:
        if self._number <= STEADY:
            return Mood.ANSWER
        (mood,) = self._moods.choices([*FICKLE_MOODS], [*FICKLE_MOODS.values()])
        return mood

    def _register(self) -> socket.socket:
        """Register, again while the server still sees the last connection. Raises EOFError where it does not end."""
        data_size = MAX_DATA_SIZE if self._number == BOASTER else 100 + self._number
        metadata = json.dumps({"header": "<METADATA>", "id": self._number, "data_size": data_size}).encode()
        waiting = threading.Event()  # for what another process does there is nothing to wait for
        for _ in range(int(PATIENCE / RETRY)):
            connection = self._ledger.connect("trainer")
            send(connection, metadata)
            header = json.loads(receive(connection))["header"]
            if header == "<SUCCESS>":
                self._ledger.count("registrations")
                with self._lock:
                    self._connection = connection
                    if self._retired:
                        raise EOFError("retired")
                return connection
            connection.close()
            waiting.wait(RETRY)
        raise EOFError("its registration is refused for ever")

    def _part(self, connection: socket.socket, mood: Mood) -> None:
        with self._lock:
            self._connection = None
        if mood is Mood.RESET:
            reset(connection)
            return
        with connection:
            if mood is Mood.SPEAK:
                connection.sendall(b"hello?")
            connection.shutdown(socket.SHUT_WR)
            until_closed(connection)

    def _upload(self, mood: Mood) -> None:
        if mood is Mood.BREAK_OFF:
            with self._ledger.connect("broken off") as upload:
                frame = len(self._answers.good).to_bytes(8, "big") + self._answers.good
                upload.sendall(frame[: self._moods.randrange(1, len(frame))])
                reset(upload)
        choices = {Mood.ANSWER_BADLY: self._answers.bad, Mood.CLAIM: self._answers.claiming}
        body = self._moods.choice(choices.get(mood, [self._answers.good]))
        for sent in (body, self._answers.again) if mood is Mood.ANSWER_TWICE else (body,):
            with self._ledger.connect("upload") as upload:
                send(upload, sent)
                upload.shutdown(socket.SHUT_WR)
                if upload.recv(1) != b"":
                    raise EOFError("an upload was answered")
            self._ledger.count("uploads")
