"""A file as memory: it is the file's bytes, takes no descriptor, and is given back when nobody looks at it."""

import gc
import os
import tempfile
from pathlib import Path

import pytest

from flserver.models.pages import mapped

SIZE = 3 * 4096 + 5


def mappings(name: str) -> int:
    return Path("/proc/self/maps").read_text().count(name)


def test_what_is_written_into_it_is_in_the_file_which_may_be_closed() -> None:
    with tempfile.NamedTemporaryFile(prefix="mapped-") as named:
        with open(named.name, "r+b") as file:
            os.ftruncate(file.fileno(), SIZE)
            view = mapped(file.fileno(), SIZE, writable=True)
        descriptors = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        assert descriptors.count(named.name) == 1, "the test's own"
        view[-3:] = b"end"
        assert (len(view), view.format, view.readonly) == (SIZE, "B", False)
        assert named.read() == bytes(SIZE - 3) + b"end"
        assert mappings(named.name) == 1
        part = view[4096:8192]
        del view
        gc.collect()
        assert mappings(named.name) == 1, "a part is looked at"
        part.release()
        del part
        assert mappings(named.name) == 0


def test_one_to_be_read_cannot_be_written_and_needs_no_more_than_that() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"body")
        file.flush()
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as to_read:
            view = mapped(to_read.fileno(), 4, writable=False)
        assert bytes(view) == b"body"
        with pytest.raises(TypeError):
            view[0] = 0
        del view


def test_what_cannot_be_mapped_says_so() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="No such device"):
            mapped(reading, 4096, writable=False)
    finally:
        os.close(reading)
        os.close(writing)
