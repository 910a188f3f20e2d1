"""Which run this process works on, and with which settings: a new one, one that is resumed, or a child of one."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flserver.errors import UsageError
from flserver.settings import ServerSettings, server_settings
from flserver.settings.policies import require_checkpoint_dir
from flserver.settings.recorded import NOT_OF_THE_RUN, OF_THE_ORIGINAL, from_anywhere, settings_of
from flserver.store.reader import Reader, Row
from flserver.store.references import NEWEST
from flserver.text import did_you_mean, edit_distance, printable

SLIP = 2  # letters by which a name may differ from an existing one and still be meant as that
SHOWN_NAMES = 5
RUN_ID = re.compile("[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
FIXED_IN_A_CHILD = ("model", "seed", "initial_weights")
FIXED_ON_RESUME = (*FIXED_IN_A_CHILD, "strategy")


@dataclass(frozen=True, kw_only=True)
class Parent:
    """Where a child run begins: at a committed ``round`` of ``run``, a row of v1_runs."""

    run: Row
    round: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``resumed`` is the run as it was found, which has ``begun`` where its round 0 is committed; ``parent`` is where a
    child began. ``overrides`` are the settings that are not as ``before``, in the run itself or in its parent. ``ref``
    is what to call it by to go on with it."""

    run_id: str
    name: str
    ref: str
    settings: ServerSettings
    resumed: Row | None = None
    begun: bool = False
    parent: Parent | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    notice: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError where nobody says where the models go."""
        require_checkpoint_dir(self.settings.store)


def says_min_clients(plan: Plan | None, given: Mapping[str, Any]) -> bool:
    """Whether somebody has said how many clients the run begins with: now, or of a child's parent."""
    inherited = plan is not None and plan.parent is not None and plan.settings.rounds.min_clients > 1
    return inherited or "min_clients" in given


@dataclass(frozen=True, kw_only=True)
class Complete:
    """There is nothing to do: the ``run``, a row of v1_runs, that was asked for by name is complete."""

    notice: str
    run: Row


def plan_run(
    reader: Reader, settings: ServerSettings, given: Mapping[str, Any], *, typed: bool = False
) -> Plan | Complete:
    """Decide by ``--resume``, ``--resume-from`` and ``--run-name``. ``given`` are the values that came from flag,
    environment or file; ``typed`` says whether the name was typed at a terminal.

    Raises UsageError where a run would go on with another model, strategy, seed or initial weights, where the name
    of the run to go on with is a slip, and where a child has no round to begin at.
    """
    name = settings.store.run_name
    if name is not None and (":" in name or name.isdigit() or not name.isprintable() or not name.strip()):
        raise UsageError(f"--run-name {name!r}: a name holds no ':', is not all digits, and is printable")
    if settings.store.resume_from is not None:
        return _child(reader, settings, given, settings.store.resume_from)
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
            _resumed(reader, settings, found, given)  # raises where what is asked for would be refused of any run
        done = f"run {found['name']} is complete with its {found['num_rounds']} rounds"
        if name is not None:
            return Complete(notice=f"{done}; a larger --num-rounds extends it", run=found)
        return _new(settings, f"--resume: {done}; starting a new one (a larger --num-rounds extends it)")
    return _resumed(reader, settings, found, given)


def _check_meant(name: str, names: list[str], settings: ServerSettings, typed: bool) -> None:
    """Raises UsageError where a new run called ``name`` is hardly meant: ``names`` are those of the runs, newest first.

    A service starts the first run of a name and goes on with it by one and the same command line, which nobody types.
    Its runs may be numbered or dated: there a name that is another one but for its numbers, each at its place, is
    meant.
    """
    there_is_none = f"--run-name {name}: {settings.store.db} has no run of that name to go on with"
    distance, near = min(((edit_distance(name, other), other) for other in names), default=(SLIP + 1, ""))
    next_in_a_row = not typed and any(_but_for_numbers(name) == _but_for_numbers(other) for other in names)
    if distance <= SLIP and not next_in_a_row:
        unit = "" if typed else "; in a unit, name it less like that one, or numbered or dated as that one is"
        raise UsageError(f"{there_is_none}; did you mean {near!r}? Leave --resume out to start a new run{unit}")
    if RUN_ID.fullmatch(name):
        raise UsageError(f"{there_is_none}, and that is no name but the id of one: is --db the record it is in?")
    if typed and names:
        some = ", ".join(list(dict.fromkeys(names))[:SHOWN_NAMES])
        raise UsageError(f"{there_is_none}; the newest are {some}. Leave --resume out to start a new run")
    if typed:
        raise UsageError(f"{there_is_none}, for there is no run in it: is --db right? Leave --resume out to start one")


def _but_for_numbers(name: str) -> str:
    return re.sub(r"\d+", "0", name)


def _new(settings: ServerSettings, notice: str | None) -> Plan:
    if settings.store.run_name == NEWEST:
        raise UsageError(f"--run-name {NEWEST}: the commands mean the newest run by it, whatever that is called")
    run_id = _new_id()
    name = settings.store.run_name or run_id
    return Plan(run_id=run_id, name=name, ref=name, settings=settings, notice=notice)


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _resumed(reader: Reader, settings: ServerSettings, found: Row, given: Mapping[str, Any]) -> Plan:
    before = _of_the_run(found)
    overrides = _overrides(found, before, given, FIXED_ON_RESUME, "--resume")
    _check_heads(reader, found, before, given)
    began = before.get("resume_from")
    parent = None if began is None else Parent(run=reader.run(found["parent_run_id"]), round=began)
    newest = reader.newest_run(found["name"])
    alone = parent is None and newest is not None and newest["run_id"] == found["run_id"]
    return Plan(
        run_id=found["run_id"],
        name=found["name"],
        ref=found["name"] if alone else found["run_id"],
        settings=_merged(settings, before, overrides),
        resumed=found,
        begun=bool(reader.committed_rounds(found["run_id"])),
        parent=parent,
        before=before,
        overrides=overrides,
    )


def _check_heads(reader: Reader, found: Row, before: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises UsageError where a restored copy would note its heads in its original's file, or sign them with its key,
    and nobody says so: whoever watches the original would be told of two pasts."""
    shares = [(key, does) for key, does in OF_THE_ORIGINAL.items() if before.get(key) and key not in given]
    if shares and reader.restored_since(found["run_id"]):
        key, does = shares[0]
        raise UsageError(
            f"run {printable(found['name'])} is restored from a backup, and {does} {before[key]}, as its original does:"
            f" name a file of its own with --{key.replace('_', '-')}, or the same one where the original is gone"
        )


def _child(reader: Reader, settings: ServerSettings, given: Mapping[str, Any], round: int) -> Plan:
    """A new run that begins at ``round`` of the newest one, or of the one that is meant by name or id."""
    option, name = f"--resume-from {round}", settings.store.run_name
    if settings.store.resume:
        raise UsageError(f"{option} starts a new run, --resume goes on with one: leave one of the two out")
    found = reader.newest_run(name)
    if found is None:
        called = "" if name is None else f" named {name}"
        meant = "" if name is None else did_you_mean(name, (run["name"] for run in reader.runs()))
        raise UsageError(f"{option}: there is no run{called} in {settings.store.db}{meant}")
    _check_round(reader.committed_rounds(found["run_id"]), round, f"{option}: run {found['name']}")
    left = found["num_rounds"] - round
    if left < 1 and "num_rounds" not in given:
        raise UsageError(
            f"{option}: run {found['name']} has no round after it. Say with --num-rounds how many the new one makes"
        )
    before = _of_the_run(found) | {"resume_from": round, "num_rounds": left}
    overrides = _overrides(found, before, given, FIXED_IN_A_CHILD, "--resume-from")
    run_id = _new_id()
    return Plan(
        run_id=run_id,
        # A name goes over to the child, so that what goes on by name, a service say, goes on with it.
        name=run_id if found["name"] == found["run_id"] else found["name"],
        ref=run_id,  # the name is its parent's too, and its next sibling's
        settings=_merged(settings, before, overrides),
        parent=Parent(run=found, round=round),
        before=before,
        overrides=overrides,
    )


def _check_round(committed: Sequence[Row], round: int, of: str) -> None:
    """Raises UsageError where no checkpoint of ``round`` is kept; ``committed`` are the run's rows of v1_rounds."""
    row = next((row for row in committed if row["round"] == round), None)
    if row is None:
        last = f"; the last one is {committed[-1]['round']}" if committed else ""
        raise UsageError(f"{of} has no committed round {round}{last}")
    if row["checkpoint_deleted_at"] is not None:
        kept = [str(row["round"]) for row in committed if row["checkpoint_deleted_at"] is None]
        raise UsageError(
            f"{of} has no checkpoint of round {round} any more: it was pruned at {row['checkpoint_deleted_at']}. "
            f"The newest that are there are of rounds {', '.join(kept[-SHOWN_NAMES:])}"
        )


def _of_the_run(found: Row) -> dict[str, Any]:
    """The settings on record with a run that are not the process's own."""
    return {key: value for key, value in settings_of(found).items() if key not in NOT_OF_THE_RUN}


def _overrides(
    found: Row, before: Mapping[str, Any], given: Mapping[str, Any], fixed: Sequence[str], option: str
) -> dict[str, Any]:
    """Those of ``given`` that differ from the settings ``before``. Raises UsageError where one is ``fixed``."""
    overrides = {
        key: value
        for key, value in from_anywhere(given).items()
        if key not in NOT_OF_THE_RUN and key in before and value != before[key]
    }
    for key in fixed:
        if key in overrides:
            flag = "--" + key.replace("_", "-")
            raise UsageError(
                f"{flag} {overrides[key]}: run {found['name']} was started with {before[key]}. "
                f"Leave {flag} out to go on with it, or leave {option} out to start a new run"
            )
    return overrides


def _merged(settings: ServerSettings, before: Mapping[str, Any], overrides: Mapping[str, Any]) -> ServerSettings:
    own = {key: settings.values[key] for key in NOT_OF_THE_RUN}
    return server_settings({**settings.values, **before, **overrides, **own})
