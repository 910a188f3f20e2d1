"""The trainers, round after round: steady ones that always answer, and fickle ones that also leave, come back, answer
twice, answer with something that cannot count, claim what cannot be so, or break off. The last boasts of its data, and
poisons what it sends."""

import copy
import json
import random
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch

from flserver.wire.messages import MAX_DATA_SIZE
from tests.e2e.harness import receive, send
from tests.patience import PATIENCE
from tests.soak.ledger import Ledger, SoakError, reset, until_closed
from tests.soak.models import State, by_digest, on_grid
from tests.soak.net import Net
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
    POISON = auto()
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
BOASTERS_MOODS = FICKLE_MOODS | {Mood.POISON: 10}

OUTVOTED: dict[str, Callable[[Net], object]] = {
    "an index beyond all": lambda net: net.order.fill_(2**62),
    "a counter at its end": lambda net: net.norm.num_batches_tracked.fill_(2**63 - 1),
    "a counter below zero": lambda net: net.norm.num_batches_tracked.fill_(-(2**63)),
    "a mask turned over": lambda net: net.mask.logical_not_(),
    "an order turned round": lambda net: net.order.copy_(net.order.flip(0)),
}
"""What the boaster does to tensors that are no floats. It counts, as one update of several."""
TOO_FAR: dict[str, Callable[[Net], object]] = {
    "a step of a million": lambda net: net.fc1.weight.data.add_(1e6),
    "a variance of a billion": lambda net: net.norm.running_var.fill_(1e9),
    "ten thousand in one weight": lambda net: net.fc1.weight.data[0, 0].fill_(1e4),
}
"""What counts in no round, where three are committed."""
NEVER: dict[str, Callable[[Net], object]] = {
    "NaN": lambda net: net.fc1.bias.data.fill_(float("nan")),
    "3e38": lambda net: net.fc1.bias.data.fill_(3e38),
    "3e38 as a running mean": lambda net: net.norm.running_mean.fill_(3e38),
    "a negative variance": lambda net: net.norm.running_var.fill_(-1.0),
    "neither true nor false": lambda net: net.mask.view(torch.uint8).fill_(2),
}
"""What counts in no round."""
HISTORY = 3  # committed rounds, before which a step may be far

SOUND = {"loss": {"received": 2.0}, "accuracy": {"received": 0.5}}
CLAIMS = [
    {"loss": {"received": loss}, "accuracy": {"received": accuracy}}
    for loss, accuracy in ((1e300, 1e100), (float("nan"), -1.0), (float("-inf"), float("nan")), (1e9, 1.5))
]


def honest_net(number: int) -> Net:
    """What trainer ``number`` has trained. Its counter is its own, indices and mask are everybody's."""
    net = Net()
    on_grid(net)
    net.norm.num_batches_tracked.fill_(8 * number)
    return net


def spoilt(net: Net, ways: Mapping[str, Callable[[Net], object]]) -> dict[str, Net]:
    """A copy of it for each way to spoil one."""
    nets = {way: copy.deepcopy(net) for way in ways}
    with torch.no_grad():
        for way, spoil in ways.items():
            spoil(nets[way])
    return nets


@dataclass(frozen=True)
class Answers:
    """A trainer's uploads as bytes, made before it starts: training costs nothing here.

    ``state`` is the honest one; ``sent`` has all that can count, by the updates' digests. ``poison`` and ``far`` are
    by what was done to them.
    """

    state: State
    sent: Mapping[str, State]
    good: bytes
    again: bytes  # as good, with more metrics than are kept
    bad: Sequence[bytes]
    claiming: Sequence[bytes]
    poison: Mapping[str, bytes]
    far: Mapping[str, bytes]

    @classmethod
    def of(cls, number: int) -> "Answers":
        sound = honest_net(number)
        double, wide = copy.deepcopy(sound).double(), copy.deepcopy(sound)
        wide.fc1 = torch.nn.Linear(785, 10)
        outvoted, never, far = (spoilt(sound, ways) for ways in (OUTVOTED, NEVER, TOO_FAR))
        metrics = {f"{number:03} " + "é" * 120: {"received": 1.0} for number in range(64)}
        good, again, *claiming = (sound_upload(number, sound, metrics=said) for said in (SOUND, metrics, *CLAIMS))
        state = sound.state_dict()
        return cls(
            state=state,
            sent=by_digest(state, *(net.state_dict() for net in outvoted.values()))
            | dict.fromkeys(by_digest(double.state_dict()), state),
            good=good,
            again=again,
            bad=[sound_upload(number, net) for net in (*never.values(), wide, double)],
            claiming=claiming,
            poison={way: sound_upload(number, net) for way, net in (outvoted | never).items()},
            far={way: sound_upload(number, net) for way, net in far.items()},
        )


class Trainer(threading.Thread):
    """One trainer. ``registered`` is set when its first registration is through; ``answers`` are what it sends."""

    def __init__(self, ledger: Ledger, turns: Turns, number: int, seed: int) -> None:
        super().__init__(name=f"trainer-{number}")
        self._ledger, self._turns, self._number = ledger, turns, number
        self._moods = random.Random(f"trainer {number} of {seed}")
        self.answers = Answers.of(number)
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
                self._upload(mood, poison=self._poison(answered))
        raise EOFError("the server ended the run")

    def _mood(self) -> Mood:
        if self._number <= STEADY:
            return Mood.ANSWER
        moods = BOASTERS_MOODS if self._number == BOASTER else FICKLE_MOODS
        (mood,) = self._moods.choices([*moods], [*moods.values()])
        return mood

    def _poison(self, answered: int) -> Mapping[str, bytes]:
        """What it may send with that many answers: one of a round each, so as many rounds are committed, but one."""
        return self.answers.poison | (self.answers.far if answered > HISTORY else {})

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
                if data_size == MAX_DATA_SIZE:
                    self._ledger.note("boasts", "registered")
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

    def _upload(self, mood: Mood, poison: Mapping[str, bytes]) -> None:
        if mood is Mood.BREAK_OFF:
            with self._ledger.connect("broken off") as upload:
                frame = len(self.answers.good).to_bytes(8, "big") + self.answers.good
                upload.sendall(frame[: self._moods.randrange(1, len(frame))])
                reset(upload)
        choices = {Mood.ANSWER_BADLY: self.answers.bad, Mood.CLAIM: self.answers.claiming}
        body = self._moods.choice(choices.get(mood, [self.answers.good]))
        if mood is Mood.POISON:
            what, body = self._moods.choice([*poison.items()])
            self._ledger.note("poisons", what)
        elif mood is Mood.CLAIM:
            self._ledger.note("claims", "numbers that cannot be so")
        elif mood is Mood.ANSWER_TWICE:
            self._ledger.note("repeats", "with 64 long-named metrics")
        for sent in (body, self.answers.again) if mood is Mood.ANSWER_TWICE else (body,):
            with self._ledger.connect("upload") as upload:
                send(upload, sent)
                upload.shutdown(socket.SHUT_WR)
                if upload.recv(1) != b"":
                    raise EOFError("an upload was answered")
            self._ledger.count("uploads")
