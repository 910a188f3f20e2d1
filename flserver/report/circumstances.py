"""Tables of what was set, and of who did what."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from flserver.record.told import NO_VALUE, OfClients
from flserver.report.facts import NUMBERS_TOLD, Facts, details, is_default, shown_setting
from flserver.report.tables import Column, Table, table
from flserver.report.values import NONE, as_json, between, count, duration, listed, moment, of, size, text
from flserver.settings.hosts import with_port
from flserver.settings.server import SERVER_SETTINGS
from flserver.store.reader import Row

WITHHELD = "(left out)"
NAMED = 3  # clients that told the same and are named
VALUES = 8  # of one key that are shown


def settings(facts: Facts, caption: str, which: Callable[[str, Any], bool]) -> Table:
    """The settings in force that ``which`` takes, in the order of the reference."""
    order = {setting.key: place for place, setting in enumerate(SERVER_SETTINGS)}
    keys = sorted(
        (key for key, value in facts.settings.items() if which(key, value)), key=lambda key: order.get(key, 999)
    )
    rows = [[f"--{text(key, 60).replace('_', '-')}", setting_cell(facts, key, facts.settings[key])] for key in keys]
    return table(caption, [("setting", "code"), ("value", "text")], rows)


def setting_cell(facts: Facts, key: str, value: Any) -> str:
    shown = shown_setting(key, value, facts.personal)
    return WITHHELD if shown is None else text(shown)


def chosen(key: str, value: Any) -> bool:
    return not is_default(key, value)


def overrides(facts: Facts) -> list[Table]:
    """What was not as before when the run was resumed: settings, and what is none of them."""
    first: list[Column] = [("when", "time"), ("process", "number")]
    last: list[Column] = [("before", "text"), ("since then", "text")]
    settings, made_of = [], []
    for act in facts.acts:
        if act["kind"] == "override":
            said = details(act)
            key = str(said.get("setting"))
            at = [moment(act["at"]), str(act["process_id"])]
            values = [said.get(when) for when in ("before", "now")]
            if what := _made_of(key):
                made_of.append([*at, what, *map(text, values)])
            else:
                settings.append(
                    [*at, f"--{text(key).replace('_', '-')}", *(setting_cell(facts, key, v) for v in values)]
                )
    found = [
        table("Settings that a resumption gave anew", [*first, ("setting", "code"), *last], settings),
        table("Code, libraries and CPU that were others", [*first, ("what", "text"), *last], made_of),
    ]
    return [made for made in found if made.rows]


def _made_of(what: str) -> str | None:
    """What an override is of that is no setting; None for a setting."""
    kind, _, name = what.partition(".")
    if kind == "libraries" and name:
        return f"library {text(name, 60)}"
    if kind == "code" and name:
        return "sources of flserver" if name == "flserver" else f"sources of --{text(name, 60).replace('_', '-')}"
    return {"cpu": "CPU", "arithmetic": "arithmetic of the mean"}.get(what)


def trainers(facts: Facts) -> list[Table]:
    """What trainers told of their own settings, by how many of them, and what they told otherwise later."""
    shown = [[text(key, 60), _told_by(told)] for key, told in facts.told_by.items()]
    columns: list[Column] = [("client", "text"), ("registration", "number"), ("when", "time"), ("told", "code")]
    again = [
        [text(one.client_id), str(one.registration), moment(one.at), text(key, 60), _told(one.before), _told(one.now)]
        for key, told in facts.told_by.items()
        for one in told.changed
    ]
    found = [
        table("Their own settings, as they told them last", [("told", "code"), ("what, and by whom", "text")], shown),
        table(
            "What a trainer told otherwise when it registered again",
            [*columns, ("before", "text"), ("since then", "text")],
            sorted(again, key=lambda row: row[2]),
        ),
    ]
    return [made for made in found if made.rows]


def trainers_notes(facts: Facts) -> list[str]:
    """What is to be said beside that: that they told nothing, or what is left out, or where they differ."""
    said = []
    if not (facts.told or facts.told_left_out):
        purged = ", or it was purged" if facts.purged else ""
        said.append(f"Trainers told nothing{purged}: their own settings, such as a learning rate, are not on record.")
    if differing := [text(key, 60) for key, told in facts.told_by.items() if len(told.clients) > 1]:
        said.append(f"Trainers do not tell the same {listed(differing)}.")
    if facts.told_left_out:
        said.append(f"Only the numbers {listed(list(NUMBERS_TOLD))} are shown; what else trainers told is left out.")
    return said


def _told_by(told: OfClients) -> str:
    if len(told.clients) == 1:
        ((value, ids),) = told.clients.items()
        return f"{_told(value)}: all {len(ids):,} that were invited"
    shown = [f"{_told(value)}: {of(len(ids), 'client')}{_names(ids)}" for value, ids in told.clients.items()][:VALUES]
    more = len(told.clients) - VALUES
    return "; ".join(shown) + (f"; and {of(more, 'other value')}" if more > 0 else "")


def _names(ids: Sequence[str]) -> str:
    return f" ({listed([text(one, 40) for one in ids])})" if len(ids) <= NAMED else ""


def _told(value: str) -> str:
    """A value that is JSON."""
    if value == NO_VALUE:
        return "nothing"
    plain = json.loads(value)
    return text(plain if isinstance(plain, str) else value, 60)


def processes(facts: Facts) -> Table:
    columns: list[Column] = [
        ("process", "number"),
        ("machine, user" if facts.personal else "user", "text"),
        ("from", "time"),
        ("to", "time"),
        ("lasted", "number"),
    ]
    columns += [
        ("exit code", "number"),
        ("went on from", "number"),
        ("flserver, Python, torch", "text"),
    ]
    rows = (
        [
            str(row["process_id"]),
            f"{text(row['host'])}, {text(row['user'], 60)}" if facts.personal else text(row["user"], 60),
            moment(row["started_at"]),
            moment(row["ended_at"]),
            duration(between(row["started_at"], row["ended_at"])),
            count(row["exit_code"]),
            NONE if row["resumed_from_round"] is None else f"round {row['resumed_from_round']}",
            ", ".join(text(row[key], 40) for key in ("server_version", "python_version", "torch_version")),
        ]
        for row in facts.processes
    )
    return table("Server processes", columns, rows)


def nodes(facts: Facts) -> Table:
    """Who served trainers in the server's stead; where, and how it showed that one was gone, only if ``personal``."""
    # A name is of the kind that is not broken over lines.
    columns: list[Column] = [
        ("node", "time"),
        ("from", "time"),
        ("to", "time"),
        ("its end", "text"),
    ]  # "time": on one line
    columns += [(name, "number") for name in ("connections", "updates", "lost")] + [("bytes in, and out", "text")]
    if facts.personal:
        columns.insert(1, ("machine, process, where it listens", "text"))
    return table("Ingest nodes", columns, (_node(facts, row) for row in facts.nodes))


def _node(facts: Facts, row: Row) -> list[str]:
    end = {"finished": "in order"}.get(row["end_reason"], text(row["end_reason"]))
    if row["lost"]:
        end = f"gone: {end}" if facts.personal else "gone"
    where = f"{row['host']}, {row['pid']}, {with_port(row['listen_host'], row['listen_port'])}"
    return [
        *map(text, [row["node"], *([where] if facts.personal else [])]),
        *(moment(row[key]) for key in ("started_at", "ended_at")),
        end,
        *(count(row[key]) for key in ("connections", "updates", "updates_lost")),
        f"{size(row['bytes_in'])}, {size(row['bytes_out'])}",
    ]


def acts(facts: Facts) -> Table:
    columns: list[Column] = [("when", "time"), ("process", "number"), ("what", "text"), ("by whom", "text")]
    if facts.personal:
        columns += [("why", "text"), ("detail", "code")]
    rows = []
    for act in facts.acts:
        more = [text(act.get("reason"), 500), as_json(act["detail"])] if facts.personal else []
        rows.append([moment(act["at"]), str(act["process_id"]), act["kind"], text(act.get("actor"), 60), *more])
    return table("What operators and signals did", columns, rows)


def people(facts: Facts) -> Table:
    """What is left out without being asked for."""
    columns: list[Column] = [
        ("client", "text"),
        ("registration", "number"),
        ("identity", "text"),
        ("name in the roster", "text"),
    ]
    columns += [
        ("address", "text"),
        ("certificate", "text"),
        ("fingerprint", "code"),
        ("what it told of itself", "code"),
    ]
    rows = (
        [
            text(row["client_id"]),
            str(row["registration"]),
            row["identity"],
            *(text(row[key]) for key in ("label", "peer_host", "certificate_subject", "certificate_fingerprint")),
            as_json(row["info"]),
        ]
        for row in facts.people
    )
    return table("Registrations, with who they were", columns, rows)
