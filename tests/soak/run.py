"""One soak: a server process, its trainers and its strangers, and what is left at the end."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from flserver.clock import Deadline
from flserver.errors import EXIT_INTERRUPTED
from tests.e2e.agreement import disagreements
from tests.e2e.harness import TESTS, ServerProcess
from tests.patience import PATIENCE, eventually
from tests.soak.costly import CONNECTIONS, COSTLY, becomes_much
from tests.soak.crowd import AT_ONCE, Crowd
from tests.soak.judge import growth, judge_left, judge_memory, tenth
from tests.soak.ledger import Ledger, SoakError
from tests.soak.machine import judge_files, judge_what_is_read, lock
from tests.soak.members import PLACES, TRIED, TurnTaker, Visitors
from tests.soak.models import ACCEPTED, judge_models
from tests.soak.record import SUMMED, judge_record, judge_rounds, number
from tests.soak.samples import MB, Sample, take
from tests.soak.strangers import KINDS, Kind, looks_in
from tests.soak.trainers import FICKLE, STEADY, Trainer, Turns

HONEST_SHARE = 0.25  # of the connections
LOCKS = 3  # how often another program locks the database
SETTINGS = {
    "model": "tests.soak.net:Net",
    "num-rounds": 1_000_000,
    "min-clients": STEADY + FICKLE + PLACES,
    "min-updates": STEADY,
    "join-window": "sliding",
    "time-to-wait": 0.2,
    "rejoin-timeout": 1,
    "round-timeout": 60,  # an honest answer takes milliseconds
    "max-connections": 64,
    "max-clients-per-address": PLACES,
    "keep-checkpoints": 2,
    "max-weight-share": "cap:0.5",
    "first-frame-timeout": 5,
    "frame-timeout": 8,
    "metrics-linger": 600,  # the soak ends it
}


@dataclass(frozen=True)
class Report:
    """``figures`` for people to read; ``findings`` has a line for each thing that does not hold."""

    figures: dict[str, object]
    findings: list[str]


def soak(connections: int, seed: int, folder: Path) -> Report:
    """At least so many connections, in an order that ``seed`` decides. Raises SoakError where it cannot go on."""
    flags = [str(part) for name, value in SETTINGS.items() for part in (f"--{name}", value)]
    with ServerProcess(folder, *flags) as server:
        one = _Soak(server, connections, seed)
        try:
            return one.run()
        # What the harness waited for and did not come is an AssertionError.
        except (SoakError, AssertionError, OSError, subprocess.TimeoutExpired) as error:
            raise SoakError("\n".join((str(error), *one.found_so_far()))) from error
        finally:
            (folder / "server.log").write_text(server.log)


class _Soak:
    def __init__(self, server: ServerProcess, connections: int, seed: int) -> None:
        self._server, self._connections, self._seed = server, connections, seed
        self._ledger = Ledger(server)
        self._turns = Turns()
        self._rounds = 0
        self._trainers = [Trainer(self._ledger, self._turns, 1 + n, seed) for n in range(STEADY + FICKLE)]
        self._takers = [TurnTaker(self._ledger, n) for n in range(TRIED)]
        self._samples: list[Sample] = []

    def run(self) -> Report:
        server, began = self._server, time.monotonic()
        with self._members():
            self._turns.settle()
            eventually(self._nobody_else_is_there)
            before = self._sample()
            self._visits()
            self._turns.settle()
            after = self._when_as_before(before)
        server.wait_for_line("metrics stay for")
        seconds = time.monotonic() - began
        left = self._sample()
        findings = [*self._ledger.complaints, *judge_memory(self._samples)]
        findings += judge_left("with the strangers gone", before, after)
        findings += judge_left("with the run over", before, left)
        findings += judge_record(server.sql, self._ledger.ports, self._ledger.counts, self._rounds)
        steady, takers = [str(1 + n) for n in range(STEADY)], [taker.client_id for taker in self._takers]
        findings += judge_rounds(server.sql, steady, takers, self._rounds)
        answers = {str(1 + n): trainer.answers for n, trainer in enumerate(self._trainers)}
        sent, honest = {client: own.sent for client, own in answers.items()}, [own.state for own in answers.values()]
        findings += judge_models(server.sql(ACCEPTED), sent, honest)
        findings += disagreements(server)
        figures = self._figures(seconds, before, after)
        findings += self._end()
        return Report(figures, findings)

    def found_so_far(self) -> list[str]:
        """Where the soak cannot go on, this says more about why."""
        return [*self._ledger.complaints, *self._tracebacks()]

    def _tracebacks(self) -> list[str]:
        return ["there is a traceback in the server's log"] if "Traceback" in self._server.log else []

    @contextmanager
    def _members(self) -> Iterator[None]:
        """The trainers and the hostile participants, registered. At the end they leave for good."""
        visitors, members = Visitors(self._ledger), [*self._trainers, *self._takers]
        visitors.before_anybody()
        for member in members:
            member.start()
        try:
            for member in members:
                member.registered.wait()
            visitors.until_it_closes()
            for taker in self._takers:
                taker.there.wait()
            yield
        finally:
            self._turns.end()
            for member in members:
                member.retire()
            for member in members:
                member.join()

    def _nobody_else_is_there(self) -> bool:
        """Whether the participants' connections are the only ones."""
        return self._server.metrics()["flserver_open_connections"] == STEADY + FICKLE + PLACES

    def _visits(self) -> None:
        """Rounds and strangers in turn, with a sample at every percent."""
        plan = self._plan()
        locks = {(1 + which) * len(plan) // (10 * (1 + LOCKS)): which for which in range(LOCKS)}
        with Crowd(self._ledger, member=1, seed=self._seed) as crowd:
            for index, kind in enumerate(plan):
                if kind is not None:
                    crowd.send(kind)
                else:
                    self._give_round()
                if index in locks:
                    self._turns.settle()
                    lock(self._ledger, locks[index], meanwhile=self._give_round)
                if 100 * index // len(plan) != 100 * (index + 1) // len(plan):
                    self._samples.append(self._sample())
            # How often a trainer connects depends on its moods.
            for _ in range(self._connections - self._ledger.connections):
                crowd.send(looks_in)

    def _give_round(self) -> None:
        self._turns.give()
        self._rounds += 1

    def _plan(self) -> list[Kind | None]:
        """Who comes, one after the other; None is a round of the trainers."""
        rng = random.Random(self._seed)
        rounds = round(HONEST_SHARE * self._connections / (STEADY + FICKLE))
        strangers = round((1 - HONEST_SHARE) * self._connections)
        plan: list[Kind | None] = [None] * (rounds - LOCKS)
        kinds = KINDS | COSTLY
        each = sum(weight * CONNECTIONS.get(kind, 1) for kind, weight in kinds.items()) / sum(kinds.values())
        plan += rng.choices([*kinds], [*kinds.values()], k=round(strangers / each))
        rng.shuffle(plan)
        # What costs most memory, the most threads among it, is there in the first tenth.
        return [becomes_much] * 3 * AT_ONCE + [*COSTLY, *plan]

    def _sample(self) -> Sample:
        try:
            return take(self._server.process.pid, self._ledger.connections)
        except (OSError, KeyError) as error:  # a process that has ended and not been waited for has no memory
            raise SoakError(f"the server is gone:\n{self._server.log[-4000:]}") from error

    def _when_as_before(self, before: Sample) -> Sample:
        """The first sample with no more threads and descriptors than before, or the last one within ``PATIENCE``."""
        deadline, waiting = Deadline.after(PATIENCE), threading.Event()
        while True:
            sample = self._sample()
            gone = sample.threads <= before.threads and sample.descriptors <= before.descriptors
            if gone or deadline.passed:
                return sample
            waiting.wait(0.05)  # another process gives no sign that could be waited for

    def _end(self) -> list[str]:
        """End the server, and check what it leaves."""
        server, found = self._server, []
        code = server.terminate()
        if code != EXIT_INTERRUPTED:
            found.append(f"the server's exit code is {code}, not {EXIT_INTERRUPTED}")
        found += self._tracebacks()
        found += judge_what_is_read(server)
        found += judge_files(server.db)
        command = [sys.executable, "-m", "flserver", "verify", "--db", str(server.db)]
        verify = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
        if verify.returncode != 0:
            found.append(f"verify: exit code {verify.returncode}: {verify.stdout[-400:]}{verify.stderr[-400:]}")
        return found

    def _figures(self, seconds: float, before: Sample, after: Sample) -> dict[str, object]:
        grown, between = growth(self._samples)
        return {
            "connections": self._ledger.connections,
            "seconds": round(seconds, 1),
            "rounds": self._rounds,
            "threads": {
                "before": before.threads,
                "most": max(s.threads for s in self._samples),
                "after": after.threads,
            },
            "descriptors": {
                "before": before.descriptors,
                "most": max(s.descriptors for s in self._samples),
                "after": after.descriptors,
            },
            "memory_mb": {
                "before": round(before.anonymous / MB, 1),
                "tenths": [round(median(s.anonymous for s in tenth(self._samples, n)) / MB, 1) for n in range(1, 11)],
                "most_resident": round(max(s.resident for s in self._samples) / MB, 1),
            },
            "bytes_per_connection": round(grown / between, 1),
            "rows": {
                view: number(self._server.sql, f"SELECT COUNT(*) FROM v1_{view}")
                for view in ("connections", "summaries", "clients", "messages", "updates", "rounds", "events")
            },
            "summed": number(self._server.sql, SUMMED),
            "refused": self._came_to("refused"),
            "failed": self._came_to("failed"),
            "decisions": dict(self._server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1")),
            "kinds": dict(sorted(self._ledger.kinds.items())),
            "not_connected": self._ledger.counts["not connected"],
            "hostile": self._ledger.answers,
        }

    def _came_to(self, outcome: str) -> int:
        """How many messages were refused, or failed: those with rows, and those in sums."""
        rows = "SELECT COUNT(*) FROM v1_messages WHERE outcome = ?"
        sums = "SELECT SUM(messages) FROM v1_summaries WHERE outcome = ?"
        return sum(self._server.sql(query, outcome)[0][0] or 0 for query in (rows, sums))
