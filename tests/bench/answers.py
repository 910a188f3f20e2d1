"""What trainers answer with, and what became of them: what the few with threads and the crowd have in common."""

import pickle
import struct
from dataclasses import dataclass, field

FIRST_ID = 1001  # ids from here on are pickled in as many bytes, so that one answer serves all
SMALL = 4096  # bytes; <FINISHED> is smaller, every model larger
REGISTRATION = '{"header": "<METADATA>", "id": %d, "data_size": %d}'


def registration(client_id: int) -> bytes:
    """The body with which a client registers."""
    return (REGISTRATION % (client_id, 100 + client_id % 7)).encode()


class Answer:
    """The pickled answer: a body that trainers share, and a tail with the trainer's own id."""

    def __init__(self, model: object) -> None:
        whole = pickle.dumps({"header": "<MODEL>", "model": model, "id": FIRST_ID}, protocol=4)
        tail = self.tail(FIRST_ID)
        assert whole.endswith(tail)
        self.shared = memoryview(whole)[: -len(tail)]

    @staticmethod
    def tail(client_id: int) -> bytes:
        """The id, the end of the dict, the end of the pickle."""
        return pickle.BININT2 + struct.pack("<H", client_id) + pickle.SETITEMS + pickle.STOP


@dataclass
class Outcome:
    """How many trainers were let in and told <FINISHED>; ``refusal`` is what the first that was not let in was told,
    ``failure`` what went wrong otherwise.

    ``moments`` (seconds, monotonic): when the last trainer had each model whole, and in the end <FINISHED>.
    """

    registered: int = 0
    finished: int = 0
    refusal: str | None = None
    failure: str | None = None
    moments: list[float] = field(default_factory=list)

    @classmethod
    def of_all(cls, outcomes: "list[Outcome]") -> "Outcome":
        """That of several processes' trainers together: each has a moment where all of them have it."""
        return cls(
            registered=sum(one.registered for one in outcomes),
            finished=sum(one.finished for one in outcomes),
            refusal=next((one.refusal for one in outcomes if one.refusal is not None), None),
            failure=next((one.failure for one in outcomes if one.failure is not None), None),
            moments=[max(moments) for moments in zip(*(one.moments for one in outcomes), strict=False)],
        )
