"""The operator's code that a run's settings name: which file it was in, so that a change of that is seen on resume."""

from collections.abc import Iterator, Mapping

from flserver.plugins import file_of
from flserver.settings import ServerSettings

NAMED = ("model", "strategy", "evaluate")
"""The settings that name code."""


def digests_of(settings: ServerSettings) -> dict[str, str]:
    """``sha256:hex`` of the file of each that is imported, by the setting's key; of torchvision's, flserver's and
    others without a file of the operator's there is none."""
    found = {key: file_of(settings.values[key] or "") for key in NAMED}
    return {key: digest for key, (_, digest) in found.items() if digest is not None}


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
