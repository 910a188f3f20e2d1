"""Strangers on threads of their own, a bounded number at once."""

import queue
import random
import threading

from tests.patience import PATIENCE
from tests.soak.ledger import Ledger, SoakError
from tests.soak.net import Net
from tests.soak.strangers import Kind, Street, sound_upload

AT_ONCE = 32


class Crowd:
    """Sends strangers, each with dice of its own that ``seed`` throws. Leaving it waits for all of them."""

    def __init__(self, ledger: Ledger, member: int, seed: int) -> None:
        upload = sound_upload("who never registered", Net())
        self._street = Street(ledger, member, upload, over=threading.Event())
        self._ledger, self._seed, self._sent = ledger, seed, 0
        self._waiting: queue.Queue[tuple[Kind, random.Random] | None] = queue.Queue(AT_ONCE)
        self._threads = [threading.Thread(target=self._work, name=f"stranger-{n}") for n in range(AT_ONCE)]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._street.over.set()
        for _thread in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def send(self, kind: Kind) -> None:
        """Let one come as soon as another has gone. Raises SoakError where none goes."""
        try:
            self._waiting.put((kind, random.Random(f"{self._seed} {self._sent}")), timeout=2 * PATIENCE)
        except queue.Full:
            raise SoakError(f"the server lets none of {AT_ONCE} strangers go") from None
        self._sent += 1

    def _work(self) -> None:
        while (visit := self._waiting.get()) is not None:
            kind, dice = visit
            try:
                if not self._street.over.is_set():
                    kind(self._street, dice)
            except TimeoutError:
                self._ledger.complain(f"{kind.__name__}: the server did not close it within {PATIENCE:g} s")
            except Exception as error:
                self._ledger.complain(f"{kind.__name__}: {type(error).__name__}: {error}")
