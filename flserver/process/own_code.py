"""The operator's code that a run's settings name: which file it was in, so that a change of that is seen on resume."""

from collections.abc import Iterator, Mapping

from flserver.plugins import file_of
from flserver.settings import ServerSettings

NAMED = ("model", "strategy", "evaluate")
"""The settings that name code."""
IN_A_NODE = ("model", "strategy")
"""Those of them whose code an ingest node runs, too."""

_imported: dict[str, tuple[str | None, str | None]] = {}


def digests_of(settings: ServerSettings) -> dict[str, str]:
    """``sha256:hex`` of the file of each that is imported, by the setting's key; of torchvision's, flserver's and
    others without a file of the operator's there is none."""
    found = {key: file_of(settings.values[key] or "") for key in NAMED}
    return {key: digest for key, (_, digest) in found.items() if digest is not None}


def other_code(settings: ServerSettings, theirs: Mapping[str, str]) -> str | None:
    """Whose file is not the one of whoever has these digests, of the model's and the strategy's, as text; None where
    both are the same."""
    for key in IN_A_NODE:
        path, digest = _imported.setdefault(spec := settings.values[key] or "", file_of(spec))
        if digest != theirs.get(key):
            return f"--{key} {spec}: {path or 'its file'}"
    return None


def imported() -> dict[str, str | None]:
    """By what a setting says, the digest of what this process has imported for it: the file may be another by now."""
    return {spec: digest for spec, (_, digest) in _imported.items()}


def changes(settings: ServerSettings, before: Mapping[str, str]) -> Iterator[str]:
    """A line for each file that is not what it was when the run began; ``before`` are its digests of then."""
    for key, digest in before.items():
        spec = settings.values.get(key) or ""
        path, now = file_of(spec)
        if now != digest:
            yield (
                f"--{key} {spec}: {path or 'its file'} has changed since the run began (it was {digest}, now it is "
                f"{now}): the run goes on with what is there now"
            )
