"""A round's policy, of which a test names only what it is about."""

from flserver.settings import RoundPolicy
from flserver.wire.messages import MAX_DATA_SIZE


def policy(**changed: object) -> RoundPolicy:
    values: dict[str, object] = {
        "num_rounds": 10,
        "time_to_wait": 10.0,
        "join_window": "fixed",
        "min_clients": 1,
        "min_updates": None,
        "round_timeout": 100.0,
        "go_on_at": None,
        "grace": 0.0,
        "round_attempts": 3,
        "rejoin": True,
        "rejoin_timeout": 60.0,
        "stop_grace": 30.0,
        "max_data_size": MAX_DATA_SIZE,
        "max_weight_share": 1.0,
        "max_update_norm": "auto",
        "caps_weight": False,
    }
    return RoundPolicy(**(values | changed))  # type: ignore[arg-type]
