"""An ingest node as a process of this machine: ``python -m flserver.process.nodes.child LISTENER LINE CALLS``.

The server starts it, with the socket that trainers connect to, which all nodes share, one end of a line, and one of
what it is called by (``calls``). The first thing on the line says what it is a node of. It has no signals of its own:
it ends when the server says so, or is gone.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
from typing import Any

from flserver.errors import UsageError, one_line
from flserver.files import group_id
from flserver.ingest.folding import Layout
from flserver.ingest.lines import LineEnd, receive_first
from flserver.ingest.node import Node
from flserver.ingest.told import GaveUp
from flserver.network.bell import Bell
from flserver.network.listener import Listener
from flserver.process.nodes.called import answers
from flserver.process.nodes.calls import Answering
from flserver.process.nodes.terms import Told
from flserver.process.resources import (
    allow_descriptors,
    capacity_of,
    first_limits,
    limit_arenas,
    limits_of,
    settle_garbage,
)
from flserver.settings import ServerSettings

logger = logging.getLogger(__name__)

LOST = 1  # the exit code of a node whose line has ended


class SharedListener(Listener):
    """A socket that other processes accept from too: who waits for a connection may find it taken. Others go on where
    this one is closed, so it is not shut down: a bell wakes who waits."""

    shared = True

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)
        self._bell, self._over = Bell(), False

    def accept(self) -> tuple[socket.socket, Any] | None:
        if self._over:
            raise OSError("listening is over")
        try:
            return self.socket.accept()
        except BlockingIOError:
            return None

    def await_connection(self, seconds: float | None = None) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        return bool(poll.poll(None if seconds is None else 1000 * seconds))

    def close(self) -> None:
        self._over = True
        self._bell.ring()

    def free(self) -> None:
        """Give the descriptors back, once nobody accepts any more."""
        self._bell.close()
        self.socket.close()


def main(listener: int, line: int, calls: int) -> int:
    """Serve trainers until the run is over. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal and a service manager tell all; the server is who stops
    allow_descriptors()
    limit_arenas()
    with socket.socket(fileno=line) as sock:
        try:
            told = Told.read(receive_first(sock))
        except EOFError:
            return LOST  # the server has gone before it could say what this is
        log_as(told.settings, told.name)
        try:
            node = node_of(told, SharedListener(socket.socket(fileno=listener)))
        except UsageError as error:  # certificates that cannot be used any more
            logger.error("%s", error)
            return LOST
        end = LineEnd(sock, node, told.name, ended=lambda why: _ended(node), over=lambda: node.asking.outbox.over)
        answering = Answering(socket.socket(fileno=calls), answers(node), ended=lambda: _ended(node))
        node.start()  # before it can be told to end
        answering.start()
        end.start()
        threading.Thread(target=make_model, args=(node, told), name="model").start()
        node.join()
        end.close()
        answering.close()
    return 0


def _ended(node: Node) -> None:
    """The line has ended, or what it is asked beside that. Where the node has not said goodbye, the server is gone: so
    is this process, at once, for others may still accept from the socket."""
    if not node.asking.outbox.over:
        os._exit(LOST)


def node_of(told: Told, listener: Listener) -> Node:
    """The node that a server has told of. Raises UsageError where a file that it needs cannot be used."""
    settings = told.settings
    return Node(
        settings,
        listener,
        run_id=told.run_id,
        roster=told.roster,
        limits=first_limits(settings.network),
        capacity=capacity_of(settings.network),
        receive_memory=settings.network.receive_memory // settings.ingest.ingest,
    )


def make_model(node: Node, told: Told) -> None:
    """Make the model that a node's trainers are sent, and let it know. A node that cannot is of no use, and others may
    be: the server has made it."""
    try:
        settings = told.settings
        from flserver.aggregation import kernel, load_strategy
        from flserver.models.kept import kept_in
        from flserver.process.prepare import build_model  # torch: 2 s, or 4 with torchvision

        built = build_model(settings)
        limits = limits_of(settings.network, built.template, built.state, parameter_tensors=built.parameter_tensors)
        kernel.load()
        settle_garbage()
        layout, store = Layout(built.tied, built.buffers), settings.store
        kept = (
            kept_in(store.checkpoint_dir, told.run_id, group_id(store.group), patience=store.checkpoint_patience)
            if store.keep_updates
            else None
        )
        strategy = load_strategy(settings.model.strategy)
        told.check_code()
        node.prepared(built.state, built.template, strategy, limits, layout, kept)
    except BaseException as error:
        if node.asking.outbox.over:
            return  # it has said goodbye: what fails as the interpreter ends is nobody's concern
        logger.error("the model could not be made: %s", one_line(error))
        node.asking.tell(GaveUp(f"its model could not be made: {one_line(error)}"))


def log_as(settings: ServerSettings, name: str) -> None:
    """Log on standard error, as the node of that name."""
    from flserver.observers.console import JsonFormatter

    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter(f"%(asctime)s %(levelname)s {name}: %(message)s")
    handler.setFormatter(JsonFormatter() if settings.values["log_format"] == "json" else text)
    logging.basicConfig(level=getattr(logging, settings.values["log_level"].upper()), handlers=[handler], force=True)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
