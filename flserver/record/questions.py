"""The cookbook: questions that come up, each a file of SQL, and their answers.

A file begins with comments: its question, how the answer is to be read, and a line for each parameter that may be left
out (``-- :round defaults to …``; it is NULL then, and the SQL says what that means). The last of them says why there
may be no rows. Then comes one SELECT over the ``v1_`` views.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flserver
from flserver.errors import UsageError
from flserver.text import did_you_mean

if TYPE_CHECKING:
    from flserver.store.reader import Reader, Row

NO_ROWS = "No rows: "
_DEFAULT = re.compile(r":(\w+) defaults to (.+)\.")
_NO_CODE = re.compile(r"--[^\n]*|'[^']*'")
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")
EXAMPLES = {"client_id": "3", "digest": "sha256:…", "other_run_id": "RUN", "round": "7", "run_id": "RUN"}
"""What a parameter's value looks like."""
AFTER_A_ROUND = frozenset({"aborted_attempts", "drop_outs", "updates_not_counted", "who_was_silent"})
"""Questions to which no rows are good news only where a round has begun."""
BARE = re.compile("[0-9a-f]{64}")  # a digest as sha256sum and b3sum print it
EMPTY = re.compile(
    "an?|and|at|by|did|do(es)?|from|how|in|is|its?|of|on|or|that|the|to|was|were|what|which|who(se)?|why"
)
"""Words that are in any question."""
STEM, ENDING = 4, 3  # letters, at least and at most
MISSPELT = 0.85
"""From 0 to 1: from here on a name is another one with a slip in it."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A file of the cookbook. ``defaults`` are what stands for parameters that are left out, in words; ``nothing`` says
    why there may be no rows; ``code`` is the SQL without its comments."""

    name: str
    title: str
    reading: str
    parameters: tuple[str, ...]
    defaults: Mapping[str, str]
    nothing: str
    sql: str

    @property
    def code(self) -> str:
        return "".join(line for line in self.sql.splitlines(keepends=True) if not line.startswith("--"))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The rows, the run that was asked about (None: the whole database), and in words why there are none, if so."""

    columns: Sequence[str]
    rows: Sequence[tuple[Any, ...]]
    run: "Row | None"
    nothing: str


def directory() -> Path:
    """The folder of the questions: inside the package in a wheel, else ``ops/sql`` beside it in a checkout."""
    package = Path(flserver.__path__[0]).resolve()
    inside = package / "questions"
    return inside if inside.is_dir() else package.parent / "ops" / "sql"


def read_question(name: str, sql: str) -> Question:
    """The question in the file NAME.sql, whose text is ``sql``."""
    comments: list[str] = []
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        comments.append(line.removeprefix("--").strip())
    title, *more = comments
    defaults = {match[1]: match[2] for line in more if (match := _DEFAULT.fullmatch(line))}
    reading, _, nothing = " ".join(line for line in more if not _DEFAULT.fullmatch(line)).partition(NO_ROWS)
    parameters = tuple(dict.fromkeys(_PARAMETER.findall(_NO_CODE.sub("", sql))))
    return Question(
        name=name,
        title=title,
        reading=reading.strip(),
        parameters=parameters,
        defaults=defaults,
        nothing=nothing,
        sql=sql,
    )


@cache
def questions() -> Mapping[str, Question]:
    """All of them, in ascending order of their names."""
    files = sorted(directory().glob("*.sql"))
    return {file.stem: read_question(file.stem, file.read_text(encoding="utf-8")) for file in files}


def question(name: str) -> Question:
    """The one of this name. Raises UsageError where there is none."""
    known = questions()
    if name not in known:
        raise UsageError(f"no question {name!r}{_perhaps(name, known)} (ask without a name lists them)")
    return known[name]


def _perhaps(name: str, known: Mapping[str, Question]) -> str:
    """``; did you mean …?`` with the question whose name is this but for a letter; else with those that have a word in
    common with it, in their names or else in their questions; else with one whose name is at all like it."""

    def like(other: str) -> float:
        return SequenceMatcher(None, name.casefold(), other).ratio()

    asked = _words(name)
    nearest = max(known, key=like)
    found = [nearest] if like(nearest) > MISSPELT else []
    for texts in ({name: name for name in known}, {name: each.title for name, each in known.items()}):
        common = {name: _in_common(asked, _words(text)) for name, text in texts.items()}
        most = max(common.values())
        found = found or sorted((other for other in known if common[other] == most > 0), key=like, reverse=True)
    named = " or ".join(map(repr, found[:3]))
    return f"; did you mean {named}?" if named else did_you_mean(name, known)


def _words(text: str) -> set[str]:
    """The words of a text that say what it is about."""
    return {word for word in re.findall("[a-z]+", text.casefold()) if not EMPTY.fullmatch(word)}


def _in_common(asked: set[str], words: set[str]) -> int:
    """How many of the words ``asked`` are also in ``words``, perhaps with another ending: slow, slowed, slowest."""
    return sum(any(map(partial(_of_one_stem, word), words)) for word in asked)


def _of_one_stem(one: str, other: str) -> bool:
    stem = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return one == other or (stem >= STEM and max(len(one), len(other)) - stem <= ENDING)


def answer(reader: "Reader", asked: Question, run: str | None, values: Mapping[str, Any]) -> Answer:
    """Ask ``asked`` about a run (None: the newest), with the ``values`` of its other parameters.

    Raises UsageError where a value is missing, is of no parameter, there is no such run, or the database is of a
    version that has not what is asked for.
    """
    given = _checked(asked, run, values)
    found = None
    for name in asked.parameters:
        if not name.endswith("run_id") or (name not in given and name in asked.defaults):
            continue
        ref = given.get(name)
        row = reader.newest_run() if ref is None else reader.run(str(ref))
        if row is None:
            raise UsageError("there are no runs yet")
        given[name] = row["run_id"]
        found = row if name == "run_id" else found
    left_out = dict.fromkeys(asked.defaults)
    try:
        columns, rows = reader.query(asked.sql, {**left_out, **given})
    except UsageError as error:
        from flserver.store.any_sql import explained

        raise UsageError(explained(reader.place, str(error))) from error
    return Answer(columns=columns, rows=rows, run=found, nothing="" if rows else _why(reader, asked, given))


def _checked(asked: Question, run: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(values)
    if run is not None:
        given["run_id"] = run
    for name in given:
        if name == "run_id" and name not in asked.parameters:
            raise UsageError(f"{asked.name} is asked of the whole database, not of a run")
        if name not in asked.parameters:
            takes = ", ".join(p for p in asked.parameters if p != "run_id") or "none but the run"
            mean = did_you_mean(name, asked.parameters)
            raise UsageError(f"{asked.name} has no parameter {name!r}{mean}; it takes {takes}")
    missing = [p for p in asked.parameters if p not in given and p not in asked.defaults and p != "run_id"]
    if missing:
        example = " ".join(f"--param {name}={EXAMPLES[name]}" for name in missing)
        raise UsageError(f"{asked.name} needs {' and '.join(missing)}, for example: ask {asked.name} {example}")
    if BARE.fullmatch(str(given.get("digest"))):
        given["digest"] = f"{'sha256' if 'model_digest = :digest' in asked.sql else 'blake3'}:{given['digest']}"
    return given


def _why(reader: "Reader", asked: Question, given: Mapping[str, Any]) -> str:
    """Why there are no rows: what was asked about is not there, or as the file says."""
    run, round, client = (given.get(name) for name in ("run_id", "round", "client_id"))
    if run is not None and round is not None:
        _, ((known, first, last),) = reader.query(
            "SELECT MAX(round = :round), MIN(round), MAX(round) FROM v1_rounds WHERE run_id = :run_id", given
        )
        if not known:
            there = f"it has {first} to {last}" if last is not None else "it has none yet"
            return f"run {run} has no round {round}: {there}"
    if run is not None and client is not None:
        _, rows = reader.query("SELECT DISTINCT client_id FROM v1_clients WHERE run_id = :run_id", given)
        known = {str(row[0]) for row in rows}
        if str(client) not in known:
            return f"no client {str(client)!r} has registered in run {run}{did_you_mean(str(client), known)}"
    if run is not None and asked.name in AFTER_A_ROUND:
        _, ((begun,),) = reader.query("SELECT COUNT(*) FROM v1_rounds WHERE run_id = :run_id AND round > 0", given)
        if not begun:
            return f"no round of run {run} has begun: nobody was sent a model yet"
    return asked.nothing
