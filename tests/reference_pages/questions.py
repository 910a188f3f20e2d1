"""``questions.md``: the questions of the cookbook, with what each takes and how its answer is read."""

from collections.abc import Iterable

from flserver.record.questions import NO_ROWS, Question, questions
from tests.reference_pages.markdown import code, page, prose, table

INTRODUCTION = """
`flserver --db runs.sqlite ask QUESTION` answers one of these, of the newest run or of `--run RUN`; `--param NAME=VALUE`
gives what else it takes, `--format csv` and `--format json` the rows for programs. Each is a file of `ops/sql/`, one
SELECT over the [views](views.md), to be changed for questions of your own: any SQLite client runs it, with `:run_id` as
the run's id, and NULL for what is in brackets.
"""


def questions_page(asked: Iterable[Question] = questions().values()) -> str:
    listed = list(asked)
    overview = table(
        ("question", "name", "takes"),
        [(each.title, f"[{code(each.name)}](#{each.name})", _takes(each)) for each in listed],
    )
    return page("Questions", INTRODUCTION, overview, *map(_section, listed))


def _takes(asked: Question) -> str:
    others = [name for name in asked.parameters if name != "run_id"]
    shown = [code(name) if name not in asked.defaults else f"[{code(name)}]" for name in others]
    return ", ".join(["RUN"] * ("run_id" in asked.parameters) + shown)


def _section(asked: Question) -> str:
    parts = [asked.title, prose(asked.reading)]
    parts += [f"{code(name)} defaults to {default}." for name, default in asked.defaults.items()]
    parts += [prose(NO_ROWS + asked.nothing)] if asked.nothing else []
    return f"## {asked.name}\n\n" + "\n\n".join(part for part in parts if part)
