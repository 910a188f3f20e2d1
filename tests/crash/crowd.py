"""Trainers that come back: whoever's connection ends registers again, with another node, as long as there is a server.

Four clients; what ``d`` sends is not finite, so no round counts it. A client that hears nothing for long registers
again: what a node had read that is gone, and told nobody of, answers nothing, and nobody can tell its client. What one
answers follows from the model and from who it is; with as many ``--min-updates`` as there are others each round has the
same updates in it, in whichever attempt, whoever was killed meanwhile.
"""

import threading
from contextlib import suppress

from tests.crash.script import CHANGES, COMPLETE, REGISTERED, SIZES, Effect
from tests.e2e.harness import Peer, field_module

COUNT = frozenset("abc")
PAUSE = 0.02
SILENCE = 2.0
BROKEN = OSError, EOFError


class Crowd:
    """The trainers of a run, through however many servers. ``effects`` is what they saw. Where there is an ``over``,
    they come back until that is set, also to a port that is nobody's. ``silence`` is how many seconds a client that
    hears nothing stays."""

    def __init__(self, over: threading.Event | None = None, silence: float = SILENCE) -> None:
        self._over, self._silence = over, silence
        self.effects: list[Effect] = []
        self.problems: list[str] = []
        self._registered = dict.fromkeys(CHANGES, 0)

    def take_part(self, port: int) -> None:
        """Until the server's port is nobody's, or all were told that the run is over."""
        with field_module():
            threads = [threading.Thread(target=self._train, args=(port, name), name=name) for name in CHANGES]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _train(self, port: int, name: str) -> None:
        pause = threading.Event()
        try:
            while not self._until_it_ends(port, name):
                pause.wait(PAUSE)
        except Exception as error:
            self.problems.append(f"{name}: {type(error).__name__}: {error}")

    def _until_it_ends(self, port: int, name: str) -> bool:
        """Whether there is nothing to come back to."""
        try:
            peer = Peer(port, name, SIZES[name])
        except ConnectionRefusedError:
            return self._over is None or self._over.is_set()
        except OSError:
            return False
        with peer, suppress(*BROKEN):
            if peer.register()["header"] != "<SUCCESS>":
                return False  # it is not known yet that the connection before is gone
            peer.connection.settimeout(self._silence)
            self._registered[name] += 1
            self._see(f"{name} is registered", REGISTERED, self._registered[name], name)
            while (message := peer.message())["header"] == "<MODEL>":
                self._answer(peer, name, message["model"])
            if message == {"header": "<FINISHED>"}:
                self._see(f"{name} is told <FINISHED>", COMPLETE)
                return True
        return False

    def _answer(self, peer: Peer, name: str, model: object) -> None:
        for parameter in model.parameters():  # type: ignore[attr-defined]
            parameter.data.add_(float("nan") if name not in COUNT else CHANGES[name])
        peer.upload(model)  # type: ignore[arg-type]

    def _see(self, what: str, query: str, *parameters: object) -> None:
        self.effects.append(Effect(0, what, query, parameters))
