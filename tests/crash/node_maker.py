"""Ingest nodes that are forked warm: a server's ``Popen`` of a node is a fork of a process that has torch already."""

import gc
import os
import select
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

MOST = 64
PASSED = 3  # descriptors: where it listens, its line, and its calls


class ForkedNode:
    """As ``subprocess.Popen``, as far as ``process.nodes`` uses that. It is another process' child, so with which code
    it ended is not known: all are said to have been killed, as those are that a sweep ends."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor: int | None = None
        with suppress(ProcessLookupError):  # it has ended already
            self._descriptor = os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended. Raises subprocess.TimeoutExpired."""
        if self._descriptor is None:
            return -signal.SIGKILL
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(None if timeout is None else 1000 * timeout):
            raise subprocess.TimeoutExpired("a node", timeout or 0)
        return -signal.SIGKILL

    def kill(self) -> None:
        if self._descriptor is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def fork_nodes(begin: Callable[[int], object]) -> None:
    """From now on, in this process, which has one thread, nodes are forked from a child of it, which ends with it.
    ``begin`` is called in each, with its number from 1."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _make(theirs, begin)
    theirs.close()
    from flserver.process.nodes import children as nodes

    def start(command: list[str], *, pass_fds: list[int], **_: Any) -> ForkedNode:
        assert command[1:3] == ["-m", "flserver.process.nodes.child"], command
        socket.send_fds(ours, [b"node"], pass_fds)
        return ForkedNode(int(ours.recv(MOST)))

    class Subprocess:
        Popen = staticmethod(start)
        DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

    nodes.subprocess = Subprocess  # type: ignore[assignment,attr-defined]


def _make(asked: socket.socket, begin: Callable[[int], object]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets those that have ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number = 0
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(asked, MOST, PASSED)
        except ConnectionResetError:
            os._exit(0)
        if not message:
            os._exit(0)
        number += 1
        if (pid := os.fork()) == 0:
            asked.close()
            _be(descriptors, number, begin)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(OSError):  # the server is gone: that is read next
            asked.send(str(pid).encode())


def _be(descriptors: list[int], number: int, begin: Callable[[int], object]) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from flserver.process.nodes.child import main

        begin(number)
        code = main(*descriptors)
        gc.disable()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
