"""What is there of a run for sessions that are elsewhere, on nodes: the base of ``exchange.Exchange``, with its lock.

A desk asks here for what a session would have done itself in this process: the next model for a registration, without
its bytes, which the nodes have; and what becomes of the updates of a node that is gone.
"""

import threading
from collections.abc import Iterable

from flserver.identity.peer import Peer
from flserver.rounds.broadcast import Published, Ring, Send
from flserver.rounds.endings import Farewell, Stop
from flserver.rounds.losses import certain, lose, on_record
from flserver.rounds.model import CurrentModel
from flserver.rounds.rules import Rounds
from flserver.rounds.seats import Attempt, Registration, SentModel, Upload, Verdict
from flserver.rounds.updates import Updates


class Apart:
    """The state of the run that more than one thread changes. Nobody but it and ``exchange.Exchange``, which is one,
    takes its lock or touches its fields."""

    def __init__(self, rounds: Rounds, model: CurrentModel) -> None:
        self._changed = threading.Condition()  # guards everything below
        self._rounds = rounds
        self._model = model
        self._updates = Updates()
        self._stop: Stop | None = None
        self._broadcast: Published | None = None
        self._bells: dict[Registration, tuple[Ring, Send]] = {}
        self._farewell: Farewell | None = None
        self._failure: BaseException | None = None

    def next_model(self, registration: Registration) -> SentModel | Farewell | None:
        """What to send next, or None: wait for the bell."""
        with self._changed:
            if self._farewell is not None:
                return self._farewell
            if not self._rounds.still_listed(registration):
                return Farewell("other")
            return self._rounds.send_to(registration) if self._broadcast is not None else None

    def registered(self, client_id: str) -> tuple[Peer | None, bool]:
        """Who registered that client in this process, if anybody did, and whether it is there."""
        with self._changed:
            return self._rounds.registered_peer(client_id)

    def lose(self, uploads: Iterable[tuple[Upload, Verdict, bool]]) -> list[Upload]:
        """The node of these is gone, each ``confirmed`` or not. Returns those that counted in the attempt, and do not
        now: it does not end before ``losses_on_record``."""
        with self._changed:
            lost = []
            for upload, verdict, confirmed in uploads:
                if lose(self._rounds.attempt, upload, confirmed=confirmed):
                    lost.append(upload)
                    self._updates.drop(upload)
                elif not confirmed:
                    self._rounds.confirm_answer(verdict)
            self._changed.notify_all()
            return lost

    def is_certain(self, upload: Upload) -> bool:
        """Whether it is certain that this counts."""
        with self._changed:
            return certain(self._rounds.attempt, upload)

    def losses_on_record(self, uploads: Iterable[Upload]) -> None:
        """It is on record that these are lost."""
        with self._changed:
            for upload in uploads:
                on_record(self._rounds.attempt, upload)
            self._changed.notify_all()

    @property
    def failing(self) -> bool:
        """Whether ``fail`` was called: nothing more comes of what is waited for."""
        return self._failure is not None

    def check_failure(self) -> None:
        """Raises what ``fail`` was given: folding failed, here or at a node, and what counts may be in no sum."""
        with self._changed:
            if self._failure is not None:
                raise self._failure

    def seal(self, attempt: Attempt) -> None:
        """The end of an attempt that is over is about to be on record: wait until all that is lost of it is, and lose
        no more."""
        with self._changed:
            self._changed.wait_for(lambda: attempt.losing == 0)
            attempt.sealed = True
