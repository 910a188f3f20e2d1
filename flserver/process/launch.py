"""From the settings to a server that listens, without torch, and without a trace on the disk.

A new run's listener comes first: a port in use is said before anything else is looked at. A resumed run listens where
it was started, and a child where its parent was, and that stands in the database, so there the listener comes after the
plan. Either way it is open before torch, which is slow to import, and trainers register meanwhile.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from flserver.clock import Deadline
from flserver.cluster.ray import check_cluster
from flserver.errors import EXIT_DONE, PortBusy, PortTaken, UsageError
from flserver.events.bus import Observer
from flserver.network.admission import Admission, check_host, check_min_clients
from flserver.network.listener import Beside, Listener, Reservation
from flserver.process.names import check_names
from flserver.process.signals import Signals
from flserver.settings import NetworkPolicy, ServerSettings
from flserver.settings.hosts import with_port

if TYPE_CHECKING:
    from flserver.process.ray.left import Staying
    from flserver.process.which_run import Complete, Plan
    from flserver.store.database import Lock

PORT_PATIENCE = 60.0  # seconds that a connection has to set the trainers' port free
PORT_PAUSE = 0.5  # seconds between two tries of that

logger = logging.getLogger(__name__)


def launch(
    settings: ServerSettings,
    given: Mapping[str, Any],
    console: Sequence[Observer],
    say: Callable[[str], None],
    *,
    typed: bool = False,
) -> int:
    """Run the server to the end of its run and return the exit code.

    ``given`` are the settings that were not left to their default; ``typed`` says whether the run's name was typed at a
    terminal; ``console`` shows events, ``say`` tells the operator a line. Raises UsageError for what cannot be done,
    before anything is on record.
    """
    with ExitStack() as stack:
        # First of all: what comes while torch is imported is seen before anything is on record.
        signals = stack.enter_context(closing(Signals()))
        if not sys.stderr.isatty():
            signals.take_hang_ups()  # a service is told to reload; a terminal that is closed means the end
        listener = None
        if not settings.store.listens_as_before:
            listener = _listen(settings, signals, stack, said="min_clients" in given)

        from flserver.process.basis import clean_complete, look_up
        from flserver.process.soundness import check_record
        from flserver.process.which_run import Complete, plan_run, says_min_clients
        from flserver.store.database import at
        from flserver.store.schema import as_it_will_be, check

        database = at(settings.store.db)
        database.wait_until_readable(settings.store.db_patience, lambda seconds: _pause(signals, seconds))
        check(settings.store.db)  # before a lock file is made beside a file that is none of ours
        lock = stack.enter_context(database.lock(stays=False, alone=False))
        if settings.store.standby:
            from flserver.process.standby import stand_by, with_reason

            if stand_by(settings, lock, lambda seconds: _pause(signals, seconds), say) is None:
                return EXIT_DONE
            settings = with_reason(settings)
        looking = stack.enter_context(ExitStack())
        reader = looking.enter_context(as_it_will_be(settings.store.db))
        plan = plan_and_take(lock, lambda: plan_run(reader, settings, given, typed=typed))
        if isinstance(plan, Complete):
            clean_complete(plan.run, reader, given.get("checkpoint_dir"), settings.store)
            say(plan.notice)
            return EXIT_DONE
        if plan.notice is not None:
            logger.warning("%s", plan.notice)
        left = _left_by_another(plan, stack)  # nodes wait for it: the record of a long run may take minutes
        check_record(plan, reader, lock.before)
        basis = look_up(plan, reader)
        if listener is None:
            said, beside = says_min_clients(plan, given), left is not None and left.has_port
            listener = _listen(plan.settings, signals, stack, said=said, plan=plan, beside=beside)
        admission = Admission(plan.settings)
        if admission.reloads:
            signals.take_hang_ups()
        host, port = listener.address
        if plan.settings.ingest.ray_address is None:  # else nodes are to listen yet, and say so
            say(f"listening for trainers on {with_port(host, port)}")

        from flserver.process.app import serve
        from flserver.process.launched import Launched

        return serve(
            Launched(
                plan=plan,
                basis=basis,
                lock=lock,
                reader=reader,
                looking=looking,
                listener=listener,
                left=left,
                admission=admission,
                signals=signals,
                console=console,
                say=say,
            )
        )


def plan_and_take(lock: "Lock", plan_it: "Callable[[], Plan | Complete]") -> "Plan | Complete":
    """What ``plan_it`` gives once nobody else can have the run; another server may have gone on with it until then.

    Raises UsageError where somebody has it, and where another run is meant by now.
    """
    from flserver.process.which_run import Complete

    before = plan_it()
    if isinstance(before, Complete):
        return before  # it is complete
    lock.take_run(before.run_id)
    if before.resumed is None:
        return before  # nobody else knows of it
    now = plan_it()
    if (now.run["run_id"] if isinstance(now, Complete) else now.run_id) != before.run_id:
        raise UsageError(f"while run {before.name} was looked up, another server began or ended a run: try again")
    return now


def _listen(
    settings: ServerSettings,
    signals: Signals,
    stack: ExitStack,
    *,
    said: bool,
    plan: "Plan | None" = None,
    beside: bool = False,
) -> Listener:
    """Listen for trainers until ``stack`` is closed, or have the port ``beside`` nodes that have kept it; ``said`` is
    ``check_min_clients``'s, and ``plan`` None is a run that is new. Raises UsageError, for whatever can be seen to be
    wrong so far."""
    network, resumed = settings.network, plan is not None and plan.resumed is not None
    check_names(settings, begun=plan is not None and plan.begun)
    check_host(network, tls=settings.identity.tls_cert is not None)
    if warning := check_min_clients(settings, said=said, resumed=resumed):
        logger.warning("%s", warning)
    if beside:
        listener: Listener = Beside(network.host, network.server_port)
    else:
        kind = Listener if settings.ingest.ray_address is None else Reservation
        listener = listen_when_free(network, signals, kind, took_over=settings.store.standby)
    stack.callback(listener.close)
    if network.metrics_port:
        from flserver.observers.http import listen

        listen(network.metrics_host, network.metrics_port).close()  # it can be had, when it is time
    return listener


def _left_by_another(plan: "Plan", stack: ExitStack) -> "Staying | None":
    """The nodes that an earlier server of the run has left, if there may be any: they stay until this one takes them
    over, or ``stack`` is closed. Raises UsageError."""
    address = plan.settings.ingest.ray_address
    if plan.resumed is None or not address:
        return None
    check_cluster(address)  # first: Ray would try for minutes
    from flserver.process.ray.left import Staying

    left = Staying(plan.settings, plan.run_id)
    stack.callback(left.close)
    return left


def listen_when_free(
    network: NetworkPolicy,
    signals: Signals,
    kind: type[Listener] = Listener,
    patience: float = PORT_PATIENCE,
    *,
    took_over: bool = False,
) -> Listener:
    """Listen for trainers, or keep the port for the nodes that will. A port that only a connection has is tried again
    for ``patience`` seconds; where the run was ``took_over`` from a server that may be on this machine and at its end,
    also one on which somebody listens.

    Raises UsageError, and KeyboardInterrupt where the process is told to stop meanwhile.
    """
    deadline, told = Deadline.after(patience), False
    while True:
        try:
            return kind(network.host, network.server_port)
        except PortTaken as error:
            if deadline.passed or not (took_over or isinstance(error, PortBusy)):
                raise
            if not told:
                logger.warning("%s; trying again for up to %.0f s", error, patience)
                told = True
        _pause(signals, PORT_PAUSE)


def _pause(signals: Signals, seconds: float) -> None:
    """Wait some seconds. Raises KeyboardInterrupt where the process is told to stop meanwhile."""
    signals.wait(seconds)
    if signals.received:
        raise KeyboardInterrupt
