"""``views.md``: the views of a database that was just made, and what their rows and columns mean."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests.reference_pages.markdown import check_described, code, page, table
from tests.reference_pages.meanings import VIEWS

INTRODUCTION = """
The views are the contract: their names and columns stay, and they only gain columns, at the end. The tables under them
may change with any version. `flserver --db runs.sqlite query "SELECT …"` asks them, and so may any SQLite client that
opens the file with `mode=ro`, also while a server writes it. [Questions](questions.md)
that come up stand in `ops/sql/`, each a query.

- **Times** are UTC, ISO 8601 as text with microseconds: they sort as they are, and `julianday()` reads them.
- **Durations** are seconds, **accuracies** and **weights** 0 to 1, **sizes** of messages those on the wire, with the 8
  bytes of the length.
- **Digests** are `algorithm:hex`: SHA-256 of files and of the chain, BLAKE3 of messages and updates.
- **`client_id`** is text everywhere.
- **NULL** is what does not apply, has not happened yet, or is not a finite number.

**How they join.** `run_id` is in all of them. `connection_id`, `message_id`, `update_id` and `process_id` are unique in
a database. An update belongs to the attempt whose `round` and `attempt` are its `answers_round` and `answers_attempt`;
the attempt that made a round is the one with the status `committed`.
"""

DECISIONS = {
    "accepted": ("its attempt is committed: it is in the new model, with its `weight`", ""),
    "late": ("it answers an attempt that is over, also where the same round is being tried again", "which attempt"),
    "duplicate": (
        "it answers nothing: no model of its client was unanswered, or it connected before that was sent",
        "whether it is the same update as the one before",
    ),
    "rejected": (
        "it answers and cannot be used: it is no model, over a limit, does not fit, weighs too much, or is too far "
        "from the model sent",
        "begins with `names`, `shape`, `dtype`, `non_finite`, `norm`, `weight_share`, `unreadable`, `size` or `other`",
    ),
    "aborted": (
        "it counted, and its attempt ended without a round",
        "`quorum`, `implausible`, `failed`, `server stopped` (a kill or a power cut), `stopped by …` (in order)",
    ),
    "lost": (
        "it counted, and the ingest node that alone had added it was gone before the attempt's end",
        "which node, and how that showed",
    ),
}

DECIDED = f"""
## Decisions

Every update has exactly one decision, and what was accepted is what was averaged:

{table(("decision", "when", "reason"), ((code(word), *told) for word, told in DECISIONS.items()))}

An upload that broke the protocol, a limit or an identity rule, or was cut off, is no update: it is a message with the
outcome `refused` or `failed`, and has no row in `v1_updates`.
"""

PARTICIPATION = """
### Participation

| participation | what came of the invitation |
| --- | --- |
| `answered` | its update came before the attempt's end, whatever was decided of it |
| `dropped` | its connection ended first |
| `timed_out` | the deadline, or the end by `--go-on-at`, came first; it owes an answer, or has to register again |
| `not_sent` | it was passed over, and `reason` says why: it owes an older answer, or held rounds up and sits out |
| `cut_short` | the attempt was aborted first |
"""

CHAIN = """
### The chain

Every row holds the digest of the one before it, from the first row of the first version on. So a row that was changed,
removed or moved shows in `flserver verify`, which also derives every table from the events anew and compares it, and
holds every checkpoint against them. Rows cut off at the end, and a chain that was written anew from some row on, are
consistent too: only heads that were [noted elsewhere](../README.md#verify), or
[witnessed](../README.md#signed-heads-and-witnesses), show those. A payload can be purged later,
with its salt, without breaking the chain, and nobody can confirm a guess at what it was.
"""

AFTER = {"v1_client_rounds": PARTICIPATION, "v1_events": CHAIN}


def views_there() -> dict[str, Sequence[str]]:
    """The columns of each view of a new database, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.sqlite"
        ensure_head(path)
        reader = Reader(path)
        _, rows = reader.query("SELECT name FROM sqlite_master WHERE type = 'view'")
        return {name: reader.query(f"SELECT * FROM {name}")[0] for (name,) in rows}


def views_page(there: Mapping[str, Sequence[str]] | None = None) -> str:
    """Raises Undescribed where a view or a column has no meaning, or one has that is not there."""
    there = views_there() if there is None else there
    check_described("views", there, VIEWS)
    overview = table(("view", "a row is"), [(f"[{code(name)}](#{name})", row) for name, (row, _) in VIEWS.items()])
    sections = []
    for name, (row, meanings) in VIEWS.items():
        check_described(name, there[name], meanings)
        columns = table(("column", "meaning"), [(code(column), meanings[column]) for column in there[name]])
        sections.append(f"## {name}\n\n{row}\n\n{columns}")
        sections += [AFTER[name].strip("\n")] if name in AFTER else []
    return page("Views", INTRODUCTION, overview, DECIDED, *sections)
