"""The node's end of a line: many sessions ask at once, each waits for its own answer, and a batch carries them all."""

import threading
from collections.abc import Callable
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


class Waiting:
    """What waits for the answer to its question: a thread in ``wait``, or what is to be called ``then``."""

    def __init__(self) -> None:
        self._there = threading.Lock()  # held until there is an answer
        self._there.acquire()
        self._lock = threading.Lock()  # guards the two below
        self._answer: Answer | None = None
        self._then: Callable[[], None] | None = None

    def answered(self, answer: Answer) -> None:
        """This is the answer."""
        with self._lock:
            self._answer, then = answer, self._then
        self._there.release()
        if then is not None:
            then()

    def wait(self) -> Answer:
        """The answer, once it is there."""
        with self._there:
            assert self._answer is not None
            return self._answer

    @property
    def answer(self) -> Answer | None:
        """None while there is none."""
        return self._answer

    def then(self, call: Callable[[], None]) -> None:
        """Call that once the answer is there: at once, or on the thread that brings it, and so without waiting."""
        with self._lock:
            if self._answer is None:
                self._then = call
                return
        call()


class Asking:
    """Questions, with their answers, and facts, which have none. For many threads."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._lock = threading.Lock()  # guards the three below
        self._waiting: dict[int, Waiting] = {}
        self._asked = 0
        self._lost = False

    def tell(self, fact: Fact, *, hurried: bool = False) -> None:
        """Say what is so; it is heard in the order in which it is said, also beside questions. It waits for companions
        where it is not ``hurried``."""
        self.outbox.put(fact, hurried=hurried)

    def ask(self, question: Question, wanted: type[Wanted]) -> Wanted:
        """The answer. Raises the error that is the answer, and StoreError where the line has ended."""
        answer = self.ask_any(question)
        if isinstance(answer, Failure):
            raise error_of(answer)
        assert isinstance(answer, wanted), f"{answer} answers {question}"
        return answer

    def ask_any(self, question: Question) -> Answer:
        """The answer, whichever it is."""
        return self.ask_ahead(question, hurried=True).wait()

    def ask_ahead(self, question: Question, *, hurried: bool = False) -> Waiting:
        """What waits for the answer, whichever it is. Where the question is not ``hurried``, it waits for others with
        which it can be answered. Raises StoreError where the line has ended."""
        waiting = Waiting()
        with self._lock:
            if self._lost:
                raise StoreError(LINE_LOST)
            self._asked += 1
            number = self._asked
            self._waiting[number] = waiting
        self.outbox.put(question, number, hurried=hurried)
        return waiting

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
