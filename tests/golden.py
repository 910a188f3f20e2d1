"""What the views and the cookbook have promised, as text: it may grow, and nothing in it changes.

``record.sql`` is a database of an old version, ``answers.json`` what the questions answer of it, ``columns.txt`` the
columns of every view with their types, in order. For a new question, or a new column at a view's end,

    python -m tests.golden

adds what is missing. It refuses to change what is there.
"""

import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Any

from flserver.record.questions import answer, question, questions
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
RECORD, ANSWERS, COLUMNS = (GOLDEN / name for name in ("record.sql", "answers.json", "columns.txt"))
HOW = "add what is new by python -m tests.golden; what was there is a promise"

GIVEN: dict[str, dict[str, Any]] = {
    "reported_by_a_client": {"client_id": "3"},
    "sent_by_a_client": {"client_id": "2"},
    "who_slowed_a_round": {"round": 4},
    "who_took_part": {"round": 2},
    "who_ran_a_round": {"round": 4},
}
"""With which values a question is asked, where it needs some or has a default. Digests are looked up."""
DIGESTS = {
    "updates_behind_a_model": "SELECT model_digest FROM v1_rounds WHERE round = 3",
    "where_a_model_comes_from": "SELECT model_digest FROM v1_rounds WHERE round = 5",
    "whose_update": "SELECT update_digest FROM v1_updates WHERE decision = 'rejected'",
}


def old_record(path: Path) -> None:
    """Make the database of the old version at ``path``."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(RECORD.read_text(encoding="utf-8"))


def answers_of(path: Path, name: str) -> dict[str, Any]:
    """The answer to one question, as JSON has it."""
    reader, asked = Reader(path), question(name)
    values = dict(GIVEN.get(name, {}))
    if name in DIGESTS:
        _, ((values["digest"],),) = reader.query(DIGESTS[name])
    given = answer(reader, asked, None, values)
    return {"columns": list(given.columns), "rows": [list(row) for row in given.rows]}


def columns_of(path: Path) -> dict[str, list[str]]:
    """The columns of each view, each with its type, in order."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        views = connection.execute("SELECT name FROM sqlite_master WHERE type = 'view' AND name GLOB 'v1_*'")
        return {
            view: [f"{name} {kind}".strip() for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({view})")]
            for (view,) in sorted(views)
        }


def promised_columns() -> dict[str, list[str]]:
    promised: dict[str, list[str]] = {}
    for line in COLUMNS.read_text(encoding="utf-8").splitlines() if COLUMNS.exists() else ():
        view, _, column = line.partition(".")
        promised.setdefault(view, []).append(column)
    return promised


def promised_answers() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(ANSWERS.read_text(encoding="utf-8")) if ANSWERS.exists() else {}
    return found


def broken(promised: Mapping[str, list[str]], there: Mapping[str, list[str]]) -> list[str]:
    """What of the promised columns is not as promised, in words."""
    said = []
    for view, columns in promised.items():
        for place, (was, now) in enumerate(zip_longest(columns, there.get(view, [])[: len(columns)]), 1):
            if was != now:
                said.append(f"{view}: its column {place} was promised as {was!r}, and is {now!r}")
    return said


def write(path: Path) -> None:
    """Add what ``path``, the old record at the newest schema, has and the golden files have not."""
    there, answers = columns_of(path), promised_answers()
    if said := broken(promised_columns(), there):
        raise SystemExit("\n".join(said))
    COLUMNS.write_text("".join(f"{view}.{column}\n" for view, columns in there.items() for column in columns))
    answers |= {name: answers_of(path, name) for name in questions() if name not in answers}
    lines = [f"{json.dumps(name)}: {_text(answers[name])}" for name in sorted(answers)]
    ANSWERS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _text(found: dict[str, Any]) -> str:
    """A row a line."""
    text = json.dumps(found, ensure_ascii=False)
    return re.sub(r'("rows": \[|\],) ?(?=\[)', r"\1\n  ", text)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        old_record(Path(folder) / "runs.sqlite")
        ensure_head(Path(folder) / "runs.sqlite")
        write(Path(folder) / "runs.sqlite")
