"""A second server of a run: it waits until the first one is gone, and says meanwhile that it stands by."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module

from flserver.cluster.ray import load_ray
from flserver.errors import UsageError
from flserver.observers.health import Health
from flserver.settings import NetworkPolicy, ServerSettings, server_settings
from flserver.settings.hosts import with_port
from flserver.store.database import Lock
from flserver.store.reader import Reader, Row

POLL = 0.25
"""Seconds between two tries to have the run: PostgreSQL lets go of a server's lock with its session."""

TOOK_OVER = "took over: the server before it was gone"
"""Why it went on with the run, where nobody has said why."""

logger = logging.getLogger(__name__)


def stand_by(
    settings: ServerSettings, lock: Lock, pause: Callable[[float], None], say: Callable[[str], None]
) -> Row | None:
    """Wait for the newest run, or the one of ``--run-name``, to be there and to be nobody's; it is ``lock``'s then.

    Returns its row of v1_runs; None where it is complete: there is nothing to take over. What ``pause`` raises ends it.
    """
    store = settings.store
    reader, told = Reader(store.db), ""
    with _health(settings.network, say, lambda: Health.standing_by(told or None)):
        import_module("flserver.process.prepare")  # with torch, which takes seconds: they are not there later
        if settings.ingest.ray_address is not None:
            load_ray()
        while True:
            run = _found(reader, store.run_name)
            if run is not None and run["status"] == "completed" and told == run["run_id"]:
                say(f"run {run['name']} is complete: there is nothing to take over")
                return None
            if run is not None and run["status"] != "completed" and lock.try_run(run["run_id"]):
                logger.warning("run %s has no server any more: taking it over", run["name"])
                return run
            if run is not None and told != run["run_id"] and run["status"] != "completed":
                told = run["run_id"]
                say(f"standing by for run {told}")
            pause(POLL)


def with_reason(settings: ServerSettings) -> ServerSettings:
    """The same with a reason for the record: who asks who resumed the run is to see that nobody did."""
    if settings.operator.reason is not None:
        return settings
    return server_settings({**settings.values, "reason": TOOK_OVER})


def _found(reader: Reader, name: str | None) -> Row | None:
    """The run that is meant; None where there is none yet, or the database cannot be asked just now."""
    try:
        return reader.newest_run(name)
    except UsageError as error:
        logger.debug("%s", error)
        return None


@contextmanager
def _health(network: NetworkPolicy, say: Callable[[str], None], health: Callable[[], Health]) -> Iterator[None]:
    """Within the block, ``/healthz`` says that this server stands by."""
    if not network.metrics_port:
        yield
        return
    from flserver.observers.http import MetricsServer
    from flserver.observers.metrics import Metrics

    with closing(MetricsServer(network.metrics_host, network.metrics_port, Metrics({}), health)) as endpoint:
        endpoint.start()
        say(f"standing by: health on http://{with_port(*endpoint.address)}/healthz")
        yield
