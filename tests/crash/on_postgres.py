"""The small run with its record on PostgreSQL and a second server that stands by, cut off at what they say to the
database: a server is killed there, or the database, or the network between them fails."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.util import Finalize
from pathlib import Path
from typing import get_args

from tests.crash.cable import Cut, Kind, Moment
from tests.crash.process import Patch
from tests.crash.scene import Fault, Scene, Victim
from tests.crash.verdict import Record, Uninterrupted, after_all, after_crash, files_of
from tests.postgres_server import TEMPLATE, PostgresServer, at_head, running_postgres

STANDBY_SECONDS = 5.0
"""From the death of a server until the one that stands by lets trainers in."""


@dataclass(frozen=True)
class Seen:
    """What came of a fault. ``problems`` is None where the run did not come to it; ``end`` says who came to the run's
    end: the server, the one that stood by, or a third that resumed it."""

    problems: list[str] | None
    seconds: float | None = None
    end: str = ""


class PostgresSweep:
    """The uninterrupted run, which the others are held against."""

    def __init__(self, postgres: PostgresServer, within: float = STANDBY_SECONDS) -> None:
        """``within`` is how many seconds the one that stands by may take. Raises AssertionError where the run cannot
        be recorded."""
        self.postgres, self._within = postgres, within
        with self._scene() as scene:
            scene.play(None)
            self._meant = scene.looked_at(_made)
            scene.problems += scene.looked_at(lambda record: list(after_all(record, self._meant, scene.effects)))
            assert not scene.problems, scene.problems
            said: Mapping[Kind, int] = scene.cables["server"].counts
        self._half = Cut("commit", "asked", said["commit"] // 2)
        with self._scene() as scene:
            scene.play(Fault("server", self._half))
            assert not scene.problems, scene.problems
            self.counts: Mapping[Victim, Mapping[Kind, int]] = dict.fromkeys(get_args(Victim), said)
            self.counts = {**self.counts, "successor": scene.pieces}

    def points(self) -> dict[str, list[Fault]]:
        """Every fault, in groups, those at commits first."""
        return {
            f"{victim}, {kind} {moment}": [
                Fault(victim, Cut(kind, moment, k + 1)) for k in range(self.counts[victim][kind])
            ]
            for kind in get_args(Kind)
            for moment in get_args(Moment)
            for victim in get_args(Victim)
        }

    def seen(self, fault: Fault, patch: Patch | None = None) -> Seen:
        """What comes of it, where ``patch`` is done to every server. A run that is over before it comes there, for its
        transactions were grouped otherwise, is made again with an earlier point."""
        seen, cut = self._seen(fault, patch), fault.cut
        while seen.problems is None and cut.number > 1:
            cut = replace(cut, number=cut.number * 4 // 5)
            seen = self._seen(replace(fault, cut=cut), patch)
        return seen

    def _seen(self, fault: Fault, patch: Patch | None) -> Seen:
        with self._scene(patch) as scene:
            try:
                scene.play(fault, self._half, self._meant)
                if not scene.cables["standby" if fault.victim == "successor" else "server"].was_cut:
                    return Seen(None)
                end = self._to_the_end(scene)
            except Exception as error:
                return Seen([*scene.problems, f"{type(error).__name__}: {error}", scene.log])
            if scene.seconds is not None and scene.seconds > self._within:
                scene.problems.append(f"the one that stood by let trainers in after {scene.seconds:.1f} s")
            return Seen(scene.problems, scene.seconds, end)

    def on_a_server_of_its_own(self) -> None:
        """From now on, in this process."""
        ended = ExitStack()
        self.postgres = ended.enter_context(running_postgres())
        Finalize(None, ended.close, exitpriority=1)

    def _to_the_end(self, scene: Scene) -> str:
        """Go on where nobody has. Who came to the end."""
        end = next((name for name, server in scene.servers.items() if server.code == 0), "resumed")
        if end == "resumed":
            scene.problems += scene.looked_at(lambda record: list(after_crash(record, self._meant, scene.effects)))
            with scene.serving(scene.record.url(), "--resume") as server:
                if code := scene.through(server):
                    scene.problems.append(f"it cannot be resumed: exit code {code}: {server.log}")
        scene.problems += scene.looked_at(lambda record: list(after_all(record, self._meant, scene.effects)))
        return end

    @contextmanager
    def _scene(self, patch: Patch | None = None) -> Iterator[Scene]:
        """A run that is to begin, in a database of its own."""
        os.environ |= {"PGPASSWORD": self.postgres.password, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
        record = self.postgres.create(self.postgres.template(TEMPLATE, at_head))
        try:
            with tempfile.TemporaryDirectory() as folder:
                yield Scene(record, Path(folder), patch)
        finally:
            record.drop()


def _made(record: Record) -> Uninterrupted:
    return Uninterrupted(tuple(row[1] for row in record.rounds), files_of(record))
