"""The node's end of a line: many sessions ask at once, each waits for its own answer, and a batch carries them all."""

import threading
from typing import TypeVar

from flserver import errors
from flserver.errors import FlserverError, RegistrationRefused, StoreError
from flserver.ingest.outbox import Outbox
from flserver.ingest.questions import Answer, Failure, Question
from flserver.ingest.told import Fact

LINE_LOST = "the coordinator is gone"

Wanted = TypeVar("Wanted")


def failure_of(error: BaseException) -> Failure:
    """An error as it goes over a line."""
    kind = type(error).__name__ if isinstance(error, FlserverError) else "FlserverError"
    return Failure(kind, errors.one_line(error), error.told if isinstance(error, RegistrationRefused) else None)


def error_of(failure: Failure) -> FlserverError:
    """The error that went over a line."""
    kind = getattr(errors, failure.kind, FlserverError)
    if kind is RegistrationRefused:
        return RegistrationRefused(failure.text, failure.told)
    made = kind(failure.text) if isinstance(kind, type) and issubclass(kind, FlserverError) else None
    return made if made is not None else FlserverError(failure.text)


class _Waiting:
    """One thread that waits for the answer to its question."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held until there is an answer
        self._lock.acquire()
        self._answer: Answer = Failure("StoreError", LINE_LOST)

    def answered(self, answer: Answer) -> None:
        self._answer = answer
        self._lock.release()

    def wait(self) -> Answer:
        self._lock.acquire()
        return self._answer


class Asking:
    """Questions, with their answers, and facts, which have none. For many threads."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._lock = threading.Lock()  # guards the three below; the outbox's is taken inside it
        self._waiting: dict[int, _Waiting] = {}
        self._asked = 0
        self._lost = False

    def tell(self, fact: Fact) -> None:
        """Say what is so; it is heard in the order in which it is said, also beside questions."""
        self.outbox.put(fact)

    def ask(self, question: Question, wanted: type[Wanted]) -> Wanted:
        """The answer. Raises the error that is the answer, and StoreError where the line has ended."""
        answer = self.ask_any(question)
        if isinstance(answer, Failure):
            raise error_of(answer)
        assert isinstance(answer, wanted), f"{answer} answers {question}"
        return answer

    def ask_any(self, question: Question) -> Answer:
        """The answer, whichever it is."""
        waiting = _Waiting()
        with self._lock:
            if self._lost:
                raise StoreError(LINE_LOST)
            self._asked += 1
            self._waiting[self._asked] = waiting
            self.outbox.put(question, self._asked)
        return waiting.wait()

    def answered(self, number: int, answer: Answer) -> None:
        """The answer to that question has come."""
        with self._lock:
            waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.answered(answer)

    def lost(self) -> None:
        """The line has ended: nobody is answered any more."""
        with self._lock:
            self._lost, waiting, self._waiting = True, list(self._waiting.values()), {}
        self.outbox.close()
        for one in waiting:
            one.answered(Failure("StoreError", LINE_LOST))
