"""Which settings on record may be shown to anybody, and as what: no address, no folder. Pure."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from flserver.settings.recorded import NOT_OF_THE_RUN
from flserver.settings.server import PATHS, SERVER_SETTINGS

ADDRESSES = frozenset({"host", "metrics_host", "trusted_proxy"})
"""Settings that hold addresses."""
_KNOWN = frozenset(setting.key for setting in SERVER_SETTINGS) - ADDRESSES - set(NOT_OF_THE_RUN)


def may_be_shown(key: str) -> bool:
    """Whether the setting holds nothing personal. Of one that this version does not know nobody can tell."""
    return key in _KNOWN


def without_folders(key: str, value: Any) -> Any:
    """The value, of a path its last part."""
    is_path = key in PATHS or (key == "initial_weights" and "/" in str(value))
    return PurePath(str(value)).name if is_path and value else value


def shareable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``settings`` those that may be shown, as they may be."""
    return {key: without_folders(key, value) for key, value in settings.items() if may_be_shown(key)}
