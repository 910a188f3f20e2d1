"""Which later models rest on a round, or on what a client has sent."""

import re

from flserver.errors import UsageError
from flserver.store.reader import Reader, Row


def descendants(reader: Reader, what: str, *, client: bool = False) -> list[Row]:
    """The committed rounds whose models rest on ``what``: a round, as RUN:ROUND, or a client, which it is in any case
    where ``client`` says so. In their order, child runs' after their parents'.

    Each was trained on a model that rests on it, or made of an update of the client itself; where a run began with the
    weights of such a model, so are its rounds. Raises UsageError where there is no such round and no such client.
    """
    parts = None if client else re.fullmatch(r"([^:]+):(\d{1,10})", what)
    unknown = UsageError(f"{what!r} is no round of a run here, RUN:ROUND, and no client with an accepted update")
    if parts is not None:
        try:
            run = reader.run(parts[1])
        except UsageError as error:
            unknown = error
        else:
            return reader.resting_on(run["run_id"], reader.committed_round(run["run_id"], int(parts[2]))["round"])
    found = reader.resting_on_client(what)
    if not found:
        raise unknown
    return found
