"""Many simulated trainers in one process and one thread: ``python -m flserver.simulation.crowd``.

What to play comes as a line of JSON on standard input, which stays open: where it ends, so does this process. What
happens goes to standard output, a JSON object a line:

    {"began": 3, "at": 71.5, "updates": 100, "received": 6600000, "sent": 3300000}   the first has round 3's model, or
                                                                                       in the end that the run is over
    {"run": "…", "done": {"17": {"accepted": 4}}, "notes": {"…": 1}, …}                 the last line

So that the same script gives the same model, one of those who answer a round does so when those of this process who
come back in it are registered, and those who send twice have been read: nothing hangs on who is quicker.
"""

import json
import resource
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from flserver.clock import monotonic
from flserver.errors import FlserverError
from flserver.settings import hosts
from flserver.simulation.answers import Piece
from flserver.simulation.bodies import Bodies, Body
from flserver.simulation.loop import Call, Ended, Link, Loop
from flserver.simulation.script import Member, What, from_line
from flserver.simulation.tls import Tls, TlsLink
from flserver.simulation.trainer import Take, Trainer
from flserver.simulation.uploads import Uploads

ARRIVING = 512  # trainers that register at a time
SPARE_DESCRIPTORS: Final = 32
FEWEST_UPLOADS: Final = 16
SETTLING = 0.1  # seconds from the word that somebody takes part until the server is sure to invite it
LONGEST_HOLD = 60.0  # seconds, where what is waited for never comes

Answers = Callable[[Member, Body, int], list[Piece]]
Told = Callable[[Mapping[str, Any]], None]


class Crowd:
    """The trainers of this process; ``told`` is given what happens."""

    def __init__(
        self,
        where: hosts.Address,
        members: list[Member],
        told: Told,
        uploads: int,
        answers: Answers | None = None,
        samples: Mapping[str, int] | None = None,
        source: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        """``uploads`` are made at a time, at most. ``answers`` makes an answer where that takes long, and ``samples``
        says what each trainer then has. All come from the address ``source``, where that is said, and speak ``tls``."""
        self.loop, self.bodies, self.round = Loop(), Bodies(), 0
        self._where, self._source, self._tls = where, source, tls
        self._told, self._answers = told, answers
        self._trainers = [Trainer(one, (samples or {}).get(one.id, one.samples), self) for one in members]
        self._arrivals = deque(self._trainers)
        self.uploads = Uploads(uploads, self.link, self.note, self._end_if_over, tls=tls is not None)
        self._awaited: set[str] = set()  # who is to come back, or to have sent twice, before the last answer of a round
        self._held: tuple[str, Call] | None = None  # whose answer that is
        self._done: dict[str, Counter[str]] = {}
        self._notes: Counter[str] = Counter()
        self._run, self._said_finished = "", False

    def play(self) -> None:
        """Until nobody is left who could answer."""
        for _ in range(min(ARRIVING, len(self._arrivals))):
            self._arrivals.popleft().register()
        self._end_if_over()
        self.loop.run()
        done = {client_id: dict(counts) for client_id, counts in self._done.items()}
        self._told({"run": self._run, "done": done, "notes": dict(self._notes), **self._totals()})

    def _totals(self) -> dict[str, float]:
        return {
            "at": monotonic(),
            "updates": self.uploads.sent,
            "received": self.loop.received,
            "sent": self.loop.sent,
        }

    # --- what trainers tell -------------------------------------------------------------------------------------------

    def count(self, client_id: str, *what: What) -> None:
        self._done.setdefault(client_id, Counter()).update(what)

    def note(self, text: str) -> None:
        self._notes[text] += 1

    def registered(self, trainer: Trainer, run: str | None) -> None:
        self._run = run or self._run

    def replied(self) -> None:
        if self._arrivals:
            self._arrivals.popleft().register()

    def begins(self, round: int) -> None:
        """A trainer has this round's model."""
        if round <= self.round:
            return
        self.round = round
        self._told({"began": round, **self._totals()})
        self._let_go()
        joined = [one for one in self._trainers if one.state == "joined"]
        self._awaited = {one.member.id for one in joined if one.sends_twice and one.member.answers_in(round)}
        for one in self._trainers:
            out = one.member.drop_out
            if out is None or out.returns_in != round:
                continue
            if one.state == "away" or (one.state == "joined" and out.round == round):
                self._awaited.add(one.member.id)
                one.come_back()  # who leaves in this very round does so itself

    def finished(self) -> None:
        if not self._said_finished:
            self._said_finished = True
            self._told({"began": self.round + 1, **self._totals()})

    def is_over(self, trainer: Trainer) -> None:
        self._end_if_over()

    def _end_if_over(self) -> None:
        """Who is away comes back with a round, which those who are there see begin."""
        there = any(one.state in ("asking", "joined") for one in self._trainers)
        if self.uploads.over and not (there or self._arrivals):
            self.loop.end()

    # --- who answers when --------------------------------------------------------------------------------------------

    def when_it_may(self, trainer: Trainer, round: int, answer: Call) -> None:
        """Call ``answer``, now or, for one of those who answer in ``round``, when nothing is to come before."""
        mine = trainer.member.id
        if round == self.round and self._awaited and self._held is None and mine not in self._awaited:
            self._held = mine, answer
            self.loop.after(LONGEST_HOLD, lambda: self._let_go(mine, round))
        else:
            answer()

    def settled(self, trainer: Trainer) -> None:
        """It has come back, has sent twice, or will never."""
        round = self.round
        if trainer.member.id in self._awaited:
            self.loop.after(SETTLING, lambda: self._awaited_no_more(trainer.member.id, round))

    def _awaited_no_more(self, client_id: str, round: int) -> None:
        if round == self.round:
            self._awaited.discard(client_id)
            if not self._awaited:
                self._let_go()

    def _let_go(self, whose: str | None = None, round: int | None = None) -> None:
        if self._held is not None and whose in (None, self._held[0]) and round in (None, self.round):
            (_, answer), self._held = self._held, None
            answer()

    def make_answer(self, trainer: Trainer, body: Body, round: int, take: Take) -> None:
        """Give ``take`` what the trainer answers."""
        if self._answers is None:
            take(body.model.answer(trainer.member, round))
        else:
            answers = self._answers
            self.loop.when_idle(lambda: take(answers(trainer.member, body, round)))

    # --- connections -------------------------------------------------------------------------------------------------

    def after(self, seconds: float, call: Call) -> None:
        self.loop.after(seconds, call)

    def link(self, client_id: str, ended: Ended) -> Link:
        family, address = self._where
        if self._tls is not None:
            context = self._tls.context(client_id)
            return TlsLink(self.loop, family, address, ended, self._source, context, self._tls.host)
        return Link(self.loop, family, address, ended, self._source)


def allow_descriptors() -> int:
    """How many this process may have, once the soft limit is at the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def crowd_of(part: Mapping[str, Any], told: Told, spare: int = SPARE_DESCRIPTORS) -> Crowd:
    """What plays a ``simulation.parts.Part`` that was told as JSON, in a process that takes ``spare`` descriptors for
    other things. Raises UsageError."""
    members = [from_line(line) for line in part["members"]]
    uploads = max(FEWEST_UPLOADS, allow_descriptors() - spare - len(members))
    family, address = part["where"]
    where = socket.AddressFamily(family), tuple(address)
    answers, samples = None, None
    if part["training"] is not None:
        from flserver.simulation.training import training  # torch: only for who trains

        answers, samples = training(members, part["training"])
    tls = None if part["tls"] is None else Tls(part["tls"])
    return Crowd(where, members, told, uploads, answers, samples, part["source"], tls)


def main() -> int:
    part = json.loads(sys.stdin.buffer.readline())

    def told(what: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # whoever started us is gone
            sys.stdout.write(f"{json.dumps(what)}\n")
            sys.stdout.flush()

    crowd = crowd_of(part, told)
    crowd.loop.end_with(sys.stdin.fileno())
    crowd.play()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlserverError as error:
        sys.exit(str(error))
