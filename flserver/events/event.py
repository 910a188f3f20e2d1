"""What every fact has in common."""

from dataclasses import dataclass, field

from flserver.clock import utc_now


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened at a time."""

    at: str = field(default_factory=utc_now)
