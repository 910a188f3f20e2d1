"""Which run this process works on: a new one, or one that is resumed, and with which settings."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flserver.errors import UsageError
from flserver.settings import ServerSettings, server_settings
from flserver.settings.recorded import NOT_OF_THE_RUN, from_anywhere, settings_of
from flserver.store.reader import Reader, Row
from flserver.text import edit_distance

SLIP = 2  # letters by which a name may differ from an existing one and still be meant as that
SHOWN_NAMES = 5
FIXED_ON_RESUME = ("model", "strategy", "seed", "initial_weights")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``resumed`` is the run as it was found; ``overrides`` are the settings that differ from those it had."""

    run_id: str
    name: str
    settings: ServerSettings
    resumed: Row | None
    overrides: Mapping[str, Any]
    notice: str | None


@dataclass(frozen=True, kw_only=True)
class Complete:
    """There is nothing to do: the run that was asked for by name is complete."""

    notice: str


def plan_run(
    reader: Reader, settings: ServerSettings, given: Mapping[str, Any], *, typed: bool = False
) -> Plan | Complete:
    """Decide by ``--resume`` and ``--run-name``. ``given`` are the values that came from flag, environment or file;
    ``typed`` says whether the name was typed at a terminal.

    Raises UsageError where a run would go on with another model, strategy, seed or initial weights, and where the name
    of the run to go on with is a slip.
    """
    name = settings.store.run_name
    if name is not None and (":" in name or name.isdigit() or not name.isprintable() or not name.strip()):
        raise UsageError(f"--run-name {name!r}: a name holds no ':', is not all digits, and is printable")
    if not settings.store.resume:
        there_is_one = name is not None and reader.newest_run(name) is not None
        again = f"--run-name {name}: there is a run of that name; this is another (--resume goes on with the newest)"
        return _new(settings, again if there_is_one else None)
    found = reader.newest_run(name)
    called = f" named {name}" if name is not None else ""
    if found is None:
        if name is not None:
            _check_meant(name, [run["name"] for run in reader.runs()], settings, typed)
        return _new(settings, f"--resume: there is no run{called} in {settings.store.db}; starting one")
    if found["status"] == "completed" and given.get("num_rounds", 0) <= found["num_rounds"]:
        if name is not None:
            _resumed(settings, found, given)  # raises where what is asked for would be refused of any run
        done = f"run {found['name']} is complete with its {found['num_rounds']} rounds"
        if name is not None:
            return Complete(notice=f"{done}; a larger --num-rounds extends it")
        return _new(settings, f"--resume: {done}; starting a new one (a larger --num-rounds extends it)")
    return _resumed(settings, found, given)


def _check_meant(name: str, names: list[str], settings: ServerSettings, typed: bool) -> None:
    """Raises UsageError where a new run called ``name`` is hardly meant: ``names`` are those of the runs, newest first.

    A service starts the first run of a name and goes on with it by one and the same command line, which nobody types.
    """
    there_is_none = f"--run-name {name}: {settings.store.db} has no run of that name to go on with"
    distance, near = min(((edit_distance(name, other), other) for other in names), default=(SLIP + 1, ""))
    if distance <= SLIP:
        raise UsageError(f"{there_is_none}; did you mean {near!r}? Leave --resume out to start a new run")
    if typed and names:
        some = ", ".join(list(dict.fromkeys(names))[:SHOWN_NAMES])
        raise UsageError(f"{there_is_none}; the newest are {some}. Leave --resume out to start a new run")


def _new(settings: ServerSettings, notice: str | None) -> Plan:
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    name = settings.store.run_name or run_id
    return Plan(run_id=run_id, name=name, settings=settings, resumed=None, overrides={}, notice=notice)


def _resumed(settings: ServerSettings, found: Row, given: Mapping[str, Any]) -> Plan:
    before = {key: value for key, value in settings_of(found).items() if key not in NOT_OF_THE_RUN}
    overrides = {
        key: value
        for key, value in from_anywhere(given).items()
        if key not in NOT_OF_THE_RUN and key in before and value != before[key]
    }
    for key in FIXED_ON_RESUME:
        if key in overrides:
            flag = "--" + key.replace("_", "-")
            raise UsageError(
                f"{flag} {overrides[key]}: run {found['name']} was started with {before[key]}. "
                f"Leave {flag} out to go on with it, or leave --resume out to start a new run"
            )
    own = {key: settings.values[key] for key in NOT_OF_THE_RUN}
    merged = server_settings({**settings.values, **before, **overrides, **own})
    return Plan(
        run_id=found["run_id"], name=found["name"], settings=merged, resumed=found, overrides=overrides, notice=None
    )
