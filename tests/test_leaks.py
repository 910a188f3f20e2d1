"""The fixture that every test runs under notices what it is there for."""

import os
import socket
import sqlite3
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.conftest import Leaked, no_leaks

SHORT = 0.1  # seconds given to what will not end


def test_a_thread_that_goes_on_is_a_leak() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-over")
    try:
        with pytest.raises(Leaked, match="left-over"):
            with no_leaks(SHORT):
                thread.start()
    finally:
        stop.set()
        thread.join()


def test_a_thread_that_is_about_to_end_is_none() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    timer = threading.Timer(SHORT, stop.set)
    with no_leaks():
        thread.start()
        timer.start()
    assert not thread.is_alive()


def test_an_open_socket_is_a_leak() -> None:
    with ExitStack() as stack:
        with pytest.raises(Leaked, match="socket:"):
            with no_leaks():
                stack.enter_context(socket.socket())


def pipe(stack: ExitStack) -> None:
    for end in os.pipe():
        stack.callback(os.close, end)


def test_an_open_pipe_is_a_leak() -> None:
    with ExitStack() as stack:
        with pytest.raises(Leaked, match="pipe:"):
            with no_leaks():
                pipe(stack)


def test_an_open_database_is_a_leak(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with pytest.raises(Leaked, match=r"runs\.sqlite"):
            with no_leaks():
                stack.enter_context(closing(sqlite3.connect(tmp_path / "runs.sqlite")))


def test_what_was_open_before_is_none() -> None:
    with socket.socket():
        with no_leaks():
            pass


def test_an_ordinary_file_is_none(tmp_path: Path) -> None:
    with no_leaks():
        file = (tmp_path / "notes.txt").open("w")
    file.close()
