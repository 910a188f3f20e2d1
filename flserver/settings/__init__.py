"""What can be set: one table feeds the flags, the environment, the files, ``--print-config`` and the reference.

``setting.py`` is what a setting is, ``server.py`` the server's table, ``policies.py`` what the parts of the server get,
``options.py`` where values come from, ``recorded.py`` a run's settings on record and back.
"""

from flserver.settings.policies import (
    Enough,
    EvaluationPolicy,
    IdentityPolicy,
    ModelPolicy,
    NetworkPolicy,
    RoundPolicy,
    ServerSettings,
    StorePolicy,
    server_settings,
)
from flserver.settings.server import (
    DATASETS,
    MAX_COUNT,
    MAX_SECONDS,
    SERVER_SETTINGS,
    STRATEGIES,
    Goodbye,
    JoinWindow,
    MaxUpdateNorm,
    UploadFrom,
)
from flserver.settings.setting import Setting, defaults, parse_tristate

__all__ = [
    "DATASETS",
    "MAX_COUNT",
    "MAX_SECONDS",
    "SERVER_SETTINGS",
    "STRATEGIES",
    "Enough",
    "EvaluationPolicy",
    "Goodbye",
    "IdentityPolicy",
    "JoinWindow",
    "MaxUpdateNorm",
    "ModelPolicy",
    "NetworkPolicy",
    "RoundPolicy",
    "ServerSettings",
    "Setting",
    "StorePolicy",
    "UploadFrom",
    "defaults",
    "parse_tristate",
    "server_settings",
]
