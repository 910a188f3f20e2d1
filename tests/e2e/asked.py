"""The questions of the cookbook, as they are put to the eventful run, and what follows from its script."""

import hashlib
from pathlib import Path
from typing import Any

from flserver.record.questions import answer, question
from flserver.store.reader import Reader
from tests import eventful_run as told
from tests.eventful_run import Facts

ACCEPTED = {1: "1234", 2: "134", 3: "124", 4: "12", 5: "12"}  # whose updates, by the round


def weights(round: int) -> dict[str, float]:
    """Each client's share of a round of ``night``."""
    total = sum(told.SIZES[client] for client in ACCEPTED[round])
    return {client: told.SIZES[client] / total for client in ACCEPTED[round]}


class Asked:
    """The questions as they are put to the eventful run."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.reader = Reader(facts.db)

    def rows(self, name: str, run: str | None = None, **values: Any) -> list[dict[str, Any]]:
        given = answer(self.reader, question(name), run, values)
        return [dict(zip(given.columns, row, strict=True)) for row in given.rows]

    def column(self, name: str, *columns: str, **values: Any) -> list[Any]:
        """Some columns of the answer: the values of one, or a tuple a row."""
        rows = self.rows(name, **values)
        return [row[columns[0]] if len(columns) == 1 else tuple(row[c] for c in columns) for row in rows]

    def file_of(self, round: int, run: str | None = None) -> Path:
        """The checkpoint's file, found by its name."""
        run_id = self.reader.run(run or "night")["run_id"]
        (file,) = self.facts.db.with_name("runs.sqlite.checkpoints").glob(f"{run_id}/round-{round:06d}-*")
        return file

    def digest(self, round: int, run: str | None = None) -> str:
        return "sha256:" + hashlib.sha256(self.file_of(round, run).read_bytes()).hexdigest()
