"""A reader whose answers are all of one moment, for what is made of many questions while a server writes."""

from collections.abc import Iterator
from contextlib import contextmanager

from flserver.settings.places import Place
from flserver.store.database import at
from flserver.store.reader import Reader


@contextmanager
def snapshot(place: Place) -> Iterator[Reader]:
    """Within the block, a Reader of the database at ``place`` as it is now, whatever is written meanwhile.

    It is to be short: a server's WAL grows as long as it lasts. Raises UsageError where there is no database that can
    be read.
    """
    database = at(place)
    database.require_there()
    with database.frozen() as engine:
        yield Reader(place, engine)
