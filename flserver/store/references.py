"""Which run somebody means, and what is said where that cannot be told."""

from collections.abc import Sequence

from flserver.errors import UsageError
from flserver.settings.places import Place
from flserver.store.reading import Row
from flserver.text import did_you_mean, printable

NEWEST = "newest"
"""What the newest run is called by everybody; a run of that name goes before it, and none is begun any more."""
SHOWN = 5  # runs that are named in a message


def the_one(ref: str, begun_so: Sequence[Row], place: Place) -> Row | None:
    """The one run whose run_id begins with ``ref``: ``begun_so`` are all of them, the newest first; None where there is
    none. Raises UsageError where there are several."""
    if len(begun_so) > 1:
        some = ", ".join(_called(run) for run in begun_so[:SHOWN])
        more = f" and {len(begun_so) - SHOWN} more" if len(begun_so) > SHOWN else ""
        raise UsageError(f"{place}: {printable(ref)!r} is how the ids of {len(begun_so)} runs begin: {some}{more}")
    return begun_so[0] if begun_so else None


def no_such_run(ref: str | None, place: Place, runs: Sequence[Row]) -> UsageError:
    """What to raise where ``place`` has no run ``ref``, or none at all: with the name or run_id that is most like it,
    else with the newest names. ``runs`` are all there are, the newest first."""
    if ref is None:
        return UsageError(f"{place} has no runs yet")
    if not runs:
        return UsageError(f"{place} has no run {ref!r}: it has none yet")
    names = list(dict.fromkeys(printable(run["name"]) for run in runs))
    meant = did_you_mean(ref, [*names, *(run["run_id"] for run in runs)])
    return UsageError(f"{place} has no run {ref!r}{meant or f'; the newest are {_listed(names)}'}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN]))


def _called(run: Row) -> str:
    return str(run["run_id"]) if run["name"] == run["run_id"] else f"{run['run_id']} ({printable(run['name'])})"
