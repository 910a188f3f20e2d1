"""``flserver check``: every check of a start, in its order, and nothing of it stays.

What a start would do is said, and of what cannot be done as much as can be seen at once. A port is tried once, and a
database that would be made, or upgraded, is a temporary one.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from flserver.errors import EXIT_DONE, EXIT_USAGE, FlserverError, one_line
from flserver.network.admission import Admission, check_host, check_min_clients
from flserver.network.listener import Listener
from flserver.observers.http import listen
from flserver.process.basis import look_up
from flserver.process.names import checks, open_files
from flserver.process.soundness import check_record
from flserver.process.which_run import Complete, Plan, plan_run, says_min_clients
from flserver.settings import ServerSettings
from flserver.store.database import at
from flserver.store.lock import Note
from flserver.store.reader import Reader
from flserver.store.schema import as_it_will_be
from flserver.store.schema import check as check_schema

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


def check(settings: ServerSettings, given: Mapping[str, Any], say: Say, complain: Say, *, typed: bool = False) -> int:
    """Do what a start with ``settings`` checks. The exit code: 0 where all is well, else 2.

    ``say`` is told what is well, ``complain`` what cannot be done, a line each; ``given`` and ``typed`` are as in
    :func:`flserver.process.which_run.plan_run`.
    """
    problems = Problems(complain)
    with ExitStack() as stack:
        planned: tuple[Plan, Reader] | None = None
        with problems.told():
            reader, before = _look(settings, stack, say)
            plan = plan_run(reader, settings, given, typed=typed)
            if isinstance(plan, Complete):
                say(plan.notice)
                return EXIT_DONE
            check_record(plan, reader, before)
            _tell(plan, say)
            for line in open_files(plan.settings.store):
                logger.warning("%s", line)
            planned, settings = (plan, reader), plan.settings
        for name in checks(begun=planned is not None and planned[0].begun):
            with problems.told():
                name(settings)
        all_named = not problems.count
        _audit_head(settings, say)
        with problems.told():
            _trainers_port(settings, say)
        with problems.told():
            resumed = planned[0].resumed is not None if planned is not None else settings.store.resume
            said = says_min_clients(planned[0] if planned is not None else None, given)
            if warning := check_min_clients(settings, said=said, resumed=resumed):
                say(warning)
        with problems.told():
            _metrics_port(settings, say)
        with problems.told():
            _admission(settings, say)
        if planned is None or not all_named:
            say("model, data and disk are not looked at before that is mended")
        else:
            with problems.told():
                _contents(*planned, say)
    return EXIT_USAGE if problems.count else EXIT_DONE


class Problems:
    """Counts what cannot be done, and tells of it, each once."""

    def __init__(self, complain: Say) -> None:
        self._complain = complain
        self._told: list[str] = []

    @property
    def count(self) -> int:
        """Of them."""
        return len(self._told)

    @contextmanager
    def told(self) -> Iterator[None]:
        """What cannot be done in the block ends the block, and not the check."""
        try:
            yield
        except FlserverError as error:
            line = one_line(error)
            if not any(earlier.startswith(line) for earlier in self._told):  # which may have said what was meant
                self._told.append(line)
                self._complain(line)


def _look(settings: ServerSettings, stack: ExitStack, say: Say) -> tuple[Reader, Note | None]:
    """A reader of the database as a start would leave it, and what the lock's file says; nobody else has it while
    ``stack`` is open."""
    db = settings.store.db
    schema = check_schema(db)
    lock = stack.enter_context(at(db).lock(stays=False, alone=False))
    reader = stack.enter_context(as_it_will_be(db))
    at(db).check_journal()
    if schema.current is None:
        say(f"database: {db} will be made")
    elif schema.at_head:
        say(f"database: {db}")
    else:
        say(f"database: {db} will be brought from {schema.current} to {schema.head}, after a copy beside it")
    return reader, lock.before


def _tell(plan: Plan, say: Say) -> None:
    if plan.notice is not None:
        say(plan.notice)
    if plan.resumed is None:
        told = f"a new one{'' if plan.name == plan.run_id else f' called {plan.name}'}"
        if plan.parent is not None:
            run, rounds = plan.parent.run["run_id"], plan.settings.rounds.num_rounds
            told += f", from round {plan.parent.round} of run {run}: {rounds} round{'s' * (rounds != 1)}"
    else:
        committed = f"{plan.resumed['rounds_committed']} of {plan.settings.rounds.num_rounds} rounds are committed"
        told = f"{plan.name} goes on, {committed}"
    changed = ", ".join(f"--{key.replace('_', '-')} {value}" for key, value in plan.overrides.items())
    say(f"run: {told}{f'; changed: {changed}' if changed else ''}")


def _audit_head(settings: ServerSettings, say: Say) -> None:
    """A run goes on without, and notes its heads later."""
    file = settings.store.audit_head
    if file is not None:
        place = file if file.exists() else file.parent
        why = None if os.access(place, os.W_OK) else f"{place} is not there or cannot be written"
        if file.exists() and not file.is_file():
            why = "it is no regular file"
        later = f" cannot be noted now: {why}. The run would go on, and note them later" if why else ""
        say(f"heads: {file}{later}")


def _trainers_port(settings: ServerSettings, say: Say) -> None:
    network = settings.network
    check_host(network, tls=settings.identity.tls_cert is not None)
    listener = Listener(network.host, network.server_port)
    listener.close()
    say(f"trainers: {network.host}:{network.server_port or 'any port'}")


def _metrics_port(settings: ServerSettings, say: Say) -> None:
    network = settings.network
    if network.metrics_port:
        listen(network.metrics_host, network.metrics_port).close()
        say(f"metrics: {network.metrics_host}:{network.metrics_port}")


def _admission(settings: ServerSettings, say: Say) -> None:
    described = Admission(settings).describe()
    if described["certificate"] is not None:
        say(f"certificate: {described['certificate']}")
    if described["clients"] is not None:
        say(f"clients: {len(described['clients'])} on the roster")


def _contents(plan: Plan, reader: Reader, say: Say) -> None:
    """What needs torch."""
    from flserver.process.prepare import prepare

    prepared = prepare(plan, look_up(plan, reader), say, fetch=False)
    model, evaluation = plan.settings.model, plan.settings.evaluation
    sent = f"{len(prepared.template.buffer):,} bytes to each client"
    say(f"model: {model.model}, {prepared.parameters:,} parameters, {sent}")
    say(f"strategy: {model.strategy}")
    measured = ", ".join(spec for spec in (evaluation.eval_data, evaluation.evaluate) if spec is not None)
    if prepared.evaluator is not None and prepared.model.round < 0:
        numbers = prepared.evaluator.evaluate(prepared.model.state, 0)
        found = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()) or "nothing"
        say(f"evaluation: {measured}; of the initial model: {found}")
    elif prepared.evaluator is not None:
        say(f"evaluation: {measured}")
