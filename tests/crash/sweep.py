"""One small run, cut off at each of its operations: killed there, or as a power loss there leaves its disk."""

import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from tests.crash.disk import Disk, contents
from tests.crash.operations import Kind, Operation
from tests.crash.process import Patch, Point, Server, recorded, serving
from tests.crash.script import Effect, Trainers
from tests.crash.verdict import Uninterrupted, after_all, after_crash, files_of, looked_at

T = TypeVar("T")

CUT_SHORT = 2  # the round that has a checkpoint and is not committed, where a resumed run is cut off


@dataclass(frozen=True, order=True)
class Loss:
    """The power fails after the first ``done`` operations. What was not synced is gone, or, with a ``seed``, some of it
    is there."""

    done: int
    seed: int | None = None

    def __str__(self) -> str:
        return f"power loss after {self.done} ({'nothing' if self.seed is None else 'some'} unsynced is there)"


class Sweep:
    """The uninterrupted run, which the others are held against. ``patch`` is done to every server that is cut off."""

    def __init__(self, patch: Patch | None = None) -> None:
        """Raises AssertionError where the run cannot be recorded."""
        self._patch = patch
        with tempfile.TemporaryDirectory() as scratch:
            folder, log = Path(scratch, "run"), Path(scratch, "operations")
            folder.mkdir()
            trainers = Trainers()
            with serving(folder, record=log, patch=patch) as server:
                self._play(server, trainers, folder)
                assert server.end() == 0, server.log
            assert trainers.finished, server.log
            self.operations: Sequence[Operation] = recorded(log)
            self._effects = trainers.effects
            with looked_at(folder) as record:
                digests = tuple(row[1] for row in record.rounds)
                self._meant = Uninterrupted(digests, files_of(record))
                problems = list(after_all(record, self._meant, trainers.effects))
            assert not problems, problems
            again = Path(scratch, "again")
            again.mkdir()
            Disk(self.operations).leave(again, lambda: True)
            assert contents(again) == contents(folder), "not every operation was seen"

    def _leave_a_checkpoint(self, folder: Path) -> None:
        """What a kill leaves that comes between a checkpoint and its round."""
        renames = [at for at, operation in enumerate(self.operations) if operation.kind == "rename"]
        Disk(self.operations[: renames[CUT_SHORT] + 1]).leave(folder, lambda: True)

    def points(self) -> dict[str, list[Point]]:
        """Every point of the run, by kind."""
        return _points(self.operations, resumed=False)

    def resumed_points(self) -> dict[str, list[Point]]:
        """The same of a run that was cut short between a checkpoint and its round, and goes on, which is recorded now.

        Raises AssertionError where it cannot go on, as may be where a server that breaks a promise was cut short.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder, log = Path(scratch, "run"), Path(scratch, "operations")
            folder.mkdir()
            self._leave_a_checkpoint(folder)
            with serving(folder, record=log, patch=self._patch) as server:
                self._play(server, Trainers(), folder)
                assert server.end() == 0, server.log
            return _points(recorded(log), resumed=True)

    def losses(self) -> dict[str, list[Loss]]:
        """A power loss after every operation, of both kinds."""
        done = range(1, len(self.operations) + 1)
        return {"all": [Loss(k) for k in done], "some": [Loss(k, seed=k) for k in done]}

    def problems(self, where: Point | Loss) -> list[str] | None:
        """What is wrong after a crash there and a resumption; None where the run ended before it came there."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            try:
                effects = self._lose(folder, where) if isinstance(where, Loss) else self._kill(folder, where)
                return None if effects is None else list(self._go_on(folder, effects))
            except Exception as error:
                return [f"{type(error).__name__}: {error}"]

    def _lose(self, folder: Path, loss: Loss) -> list[Effect]:
        chance = random.Random(loss.seed)
        Disk(self.operations[: loss.done]).leave(folder, lambda: loss.seed is not None and bool(chance.getrandbits(1)))
        return [effect for effect in self._effects if effect.at <= loss.done]

    def _kill(self, folder: Path, point: Point) -> list[Effect] | None:
        trainers = Trainers()
        if point.resumed:
            self._leave_a_checkpoint(folder)
        with serving(folder, kill_at=point, patch=self._patch) as server:
            self._play(server, trainers, folder)
            code = server.end()
        assert code in (0, -9), f"the server ended by itself with {code}: {server.log}"
        return trainers.effects if code == -9 else None

    def _go_on(self, folder: Path, effects: list[Effect]) -> Iterable[str]:
        with looked_at(folder) as record:
            yield from after_crash(record, self._meant, effects)
        trainers = Trainers()
        with serving(folder) as server:
            self._play(server, trainers, folder)
            code = server.end()
        if code != 0:
            yield f"it cannot be resumed: exit code {code}: {server.log}"
            return
        with looked_at(folder) as record:
            yield from after_all(record, self._meant, [*effects, *trainers.effects])

    def _play(self, server: Server, trainers: Trainers, folder: Path) -> None:
        if (port := server.port()) is not None:
            with looked_at(folder) as record:
                committed = [row[0] for row in record.rounds]
            trainers.take_part(server, port, max(1, committed[-1] + 1 if committed else 1))


def _points(operations: Sequence[Operation], *, resumed: bool) -> dict[str, list[Point]]:
    counts = Counter(operation.kind for operation in operations)
    return {
        f"resumed, {kind}" if resumed else kind: [Point(kind, k + 1, resumed) for k in range(counts[kind])]
        for kind in get_args(Kind)
        if counts[kind]
    }


def spread(groups: Mapping[str, Sequence[T]], count: int, chance: random.Random | None = None) -> list[T]:
    """``count`` of all, as evenly over the groups as these are long, and evenly within each: the middle of its stretch,
    or by ``chance`` any of that."""
    quotas: Counter[str] = Counter()
    while sum(quotas.values()) < min(count, sum(map(len, groups.values()))):
        open_groups = [name for name, members in groups.items() if quotas[name] < len(members)]
        quotas[min(open_groups, key=lambda name: quotas[name])] += 1

    def within(k: int, quota: int, length: int) -> int:
        if chance is None:
            return (2 * k + 1) * length // (2 * quota)
        return chance.randrange(k * length // quota, (k + 1) * length // quota)

    return [
        members[within(k, quotas[name], len(members))] for name, members in groups.items() for k in range(quotas[name])
    ]
