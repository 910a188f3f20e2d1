"""What is said of an exported model, beside it or in it: where it comes from, by the record."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flserver.errors import UsageError
from flserver.store.reader import Reader, Row
from flserver.text import json_text

FORMAT = "flserver model 1"
NOT_STATED = "not stated"
EXPRESSION = re.compile(r"[(]*[A-Za-z0-9.+:-]+[)]*( (AND|OR|WITH) [(]*[A-Za-z0-9.+:-]+[)]*)*")

PROCESS = "SELECT * FROM v1_processes WHERE process_id = :process_id"  # an older database has not all of MADE_WITH
MADE_WITH = ("server_version", "python_version", "torch_version", "code", "libraries", "cpu")
CLIENTS = """
    SELECT COUNT(DISTINCT client_id) FROM v1_updates
    WHERE run_id = :run_id AND answers_round <= :round AND decision = 'accepted'"""


def checked_licence(licence: str | None) -> str | None:
    """``licence`` as it is. Raises UsageError where it is no SPDX expression."""
    if licence is not None and not EXPRESSION.fullmatch(licence):
        raise UsageError(f"--licence {licence!r} is no SPDX expression, such as Apache-2.0 or CC-BY-4.0")
    return licence


def model_card(reader: Reader, run: Row, committed: Row, licence: str | None) -> dict[str, Any]:
    """What the record says of the model of a ``committed`` round, a row of v1_rounds. Counts, sizes and digests only:
    nothing of it says who the clients are.

    ``clients`` and ``data_size`` (samples, as counted) are of the updates that the round is made of,
    ``clients_of_run`` those of this run's rounds up to it. Raises UsageError where ``licence`` is no SPDX expression.
    """
    checked_licence(licence)
    names, processes = reader.query(PROCESS, {"process_id": committed["process_id"]})
    process = dict(zip(names, processes[0], strict=True)) if processes else {}
    made_with: dict[str, Any] = {name: process.get(name) for name in MADE_WITH} if process else {}
    for name in ("code", "libraries"):
        made_with[name] = json.loads(made_with.get(name) or "null")

    def measured(name: str) -> float | None:
        if committed[name] is not None:
            return float(committed[name])
        return reader.not_finite(run["run_id"]).get((committed["round"], name))

    ((clients,),) = reader.query(CLIENTS, {"run_id": run["run_id"], "round": committed["round"]})[1]
    parent = {"run_id": run["parent_run_id"], "round": run["parent_round"]}
    return {
        "format": FORMAT,
        "model": run["model"],
        "licence": licence or NOT_STATED,
        "run_id": run["run_id"],
        "run": run["name"],
        "round": committed["round"],
        "attempt": committed["attempt"],
        "committed_at": committed["ended_at"],
        "model_digest": committed["model_digest"],
        "parent": parent if parent["run_id"] else None,
        "strategy": run["strategy"],
        "arithmetic": committed.get("arithmetic"),
        "seed": run["seed"],
        "clients": committed["updates_accepted"],
        "clients_of_run": clients,
        "data_size": committed["data_size"],
        **{name: measured(name) for name in ("loss", "accuracy")},
        "made_with": made_with,
    }


def as_metadata(card: Mapping[str, Any]) -> dict[str, str]:
    """The card as safetensors' ``__metadata__`` holds it: text by name, ``flserver.`` before each; what is no text is
    JSON."""
    return {f"flserver.{key}": value if isinstance(value, str) else json_text(value) for key, value in card.items()}


def place_of(out: Path) -> Path:
    """Where the card of the file ``out`` goes: ``NAME.json`` beside it. Raises UsageError where something else is, or
    the card of another file: NAME.pt and NAME.safetensors would have the same."""
    place = out.with_suffix(".json")
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError:
        return place
    except (OSError, ValueError) as error:
        raise UsageError(f"--out {out}: {place}, which says what it is, cannot be read: {error}") from error
    try:
        card = json.loads(text)
        ours, of = card["format"] == FORMAT, card.get("file")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        ours, of = False, None
    if ours and isinstance(of, str) and of != out.name and (out.parent / Path(of).name).exists():
        raise UsageError(f"--out {out}: {place} says what {of} is: another name, or move both away")
    if not ours:
        raise UsageError(f"--out {out}: {place} is there and none of flserver's: another name, or move it away")
    return place
