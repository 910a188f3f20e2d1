"""Which of a run's committed rounds is meant: by its number, ``best`` or ``last``."""

from flserver.errors import UsageError
from flserver.models.retention import MadeRound, best
from flserver.store.reader import Reader, Row


def committed_round(reader: Reader, run: Row, which: str) -> Row:
    """The row of v1_rounds of the ``run``, a row of v1_runs. Raises UsageError where there is none."""
    if which == "best":
        rows = reader.committed_rounds(run["run_id"])
        found = best(map(MadeRound.of, rows))
        if found is None:
            raise UsageError(f"no round of run {run['name']} has an accuracy or a loss: there is no best one")
        return next(row for row in rows if row["round"] == found.round)
    if which != "last" and not which.isdecimal():
        raise UsageError(f"round {which}: a number, best or last")
    return reader.committed_round(run["run_id"], None if which == "last" else int(which))
