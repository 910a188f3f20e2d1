"""From the settings to a server that listens, without torch.

A new run's listener comes first: a port in use is said before anything is touched. A resumed run listens where it was
started, and that stands in the database, so there the listener comes after the plan. Either way it is open before
torch, which is slow to import, and trainers that come early wait in its backlog.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from flserver.errors import EXIT_DONE
from flserver.events.bus import Observer
from flserver.network.admission import Admission, check_host
from flserver.network.listener import Listener
from flserver.process.signals import Signals
from flserver.settings import ServerSettings

logger = logging.getLogger(__name__)


def launch(
    settings: ServerSettings,
    given: Mapping[str, Any],
    console: Sequence[Observer],
    say: Callable[[str], None],
) -> int:
    """Run the server to the end of its run and return the exit code.

    ``given`` are the settings that were not left to their default; ``console`` shows events, ``say`` tells the operator
    a line. Raises UsageError for what cannot be done, before anything is on record.
    """
    with ExitStack() as stack:
        # First of all: what comes while torch is imported is seen before anything is on record.
        signals = stack.enter_context(closing(Signals()))
        if not sys.stderr.isatty():
            signals.take_hang_ups()  # a service is told to reload; a terminal that is closed means the end
        listener = None if settings.store.resume else _listen(settings, stack)

        from flserver.process.which_run import Complete, plan_run
        from flserver.store.reader import Reader
        from flserver.store.schema import check, ensure_head
        from flserver.store.sqlite import DatabaseLock

        check(settings.store.db)  # before a lock file is made beside a file that is none of ours
        stack.enter_context(DatabaseLock(settings.store.db))
        upgrade = ensure_head(settings.store.db)
        reader = Reader(settings.store.db)
        plan = plan_run(reader, settings, given)
        if isinstance(plan, Complete):
            say(plan.notice)
            return EXIT_DONE
        if plan.notice is not None:
            logger.warning("%s", plan.notice)
        if listener is None:
            listener = _listen(plan.settings, stack)
        admission = Admission(plan.settings)
        if admission.reloads:
            signals.take_hang_ups()
        host, port = listener.address
        say(f"listening for trainers on {host}:{port}")

        from flserver.process.app import serve
        from flserver.process.launched import Launched

        return serve(
            Launched(
                plan=plan,
                reader=reader,
                upgrade=upgrade,
                listener=listener,
                admission=admission,
                signals=signals,
                console=console,
                say=say,
            )
        )


def _listen(settings: ServerSettings, stack: ExitStack) -> Listener:
    network = settings.network
    check_host(network, tls=settings.identity.tls_cert is not None)
    listener = Listener(network.host, network.server_port)
    stack.callback(listener.close)
    return listener
