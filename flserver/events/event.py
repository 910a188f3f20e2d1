"""What every fact has in common."""

from dataclasses import field

from flserver.clock import utc_now
from flserver.frozen import frozen


@frozen(kw_only=True)
class Event:
    """Something happened at a time."""

    at: str = field(default_factory=utc_now)
