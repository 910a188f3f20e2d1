"""A run's settings as they go on record, and back."""

import json
from collections.abc import Mapping
from typing import Any

from flserver.settings.folders import Folder, absolute
from flserver.settings.places import Address, Place, checkpoints_beside, place_of
from flserver.settings.policies import ServerSettings, checkpoints_at
from flserver.settings.server import PATHS

NOT_OF_THE_RUN = ("db", "resume", "standby", "run_name", "log_format", "log_level", "actor", "reason")

OF_THE_ORIGINAL = {"audit_head": "notes its heads in", "sign_key": "signs with"}
"""Settings whose files a restored copy of a run is not to go on with as its original does, and what that does."""


def config_of(settings: ServerSettings) -> dict[str, Any]:
    """The settings as they go on record with the run."""
    return {key: value for key, value in from_anywhere(settings.values).items() if key not in NOT_OF_THE_RUN}


def from_anywhere(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with their paths absolute: a run is resumed from whatever folder. A database's URL is none."""
    paths = {key for key in PATHS if values.get(key)}
    if "db" in paths and isinstance(place_of(str(values["db"])), Address):
        paths.remove("db")
    return {key: absolute(str(value)) if key in paths else value for key, value in values.items()}


def settings_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on record with a run (a row of v1_runs): what :func:`config_of` gave."""
    return dict(json.loads(run["config"]))


def checkpoints_of(run: Mapping[str, Any], given: Folder | None, db: Place) -> Folder:
    """Where the checkpoints of a run (a row of v1_runs) lie: as given, else as recorded, else beside
    the database."""
    recorded = settings_of(run).get("checkpoint_dir")
    return given or checkpoints_at(recorded) or checkpoints_beside(db)
