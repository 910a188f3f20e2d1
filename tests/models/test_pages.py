"""Memory that is used again, and a file as memory: it is the file's bytes, takes no descriptor, and is given back when
nobody looks at it."""

import gc
import os
import tempfile
from pathlib import Path

import pytest

from flserver.models.pages import WORTH_KEEPING, lent, let_go, mapped, unused, used_again

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


def test_what_nobody_looks_at_any_more_is_lent_again_for_a_message_that_is_little_longer() -> None:
    size = 3 * WORTH_KEEPING
    first = lent(size)
    first[:5] = b"first"
    part = first[:5]
    del first
    gc.collect()
    assert used_again(size) is None, "a part is looked at"
    part.release()
    del part
    gc.collect()
    assert used_again(2 * size) is used_again(size // 2) is None, "it does not fit, and stays"
    again = used_again(size + 2**16)
    assert again is not None
    assert again[:5] == b"first"
    assert used_again(size) is None


def test_one_is_kept_and_the_one_before_is_given_back_at_once_although_there_are_views_of_it() -> None:
    buffers = [unused(WORTH_KEEPING) for _ in range(2)]
    views = [memoryview(buffer) for buffer in buffers]
    for buffer in buffers:
        buffer[:4] = b"here"
        let_go(buffer)
    assert [bytes(view[:4]) for view in views] == [bytes(4), b"here"]
    assert used_again(WORTH_KEEPING) is buffers[1]


def test_little_memory_is_not_kept() -> None:
    let_go(unused(WORTH_KEEPING - 1))
    assert used_again(WORTH_KEEPING - 1) is None


@pytest.mark.parametrize("size", [WORTH_KEEPING, 2**29])
def test_the_memory_of_a_model_is_kept_for_the_next_one_however_large(size: int) -> None:
    buffer = unused(size)
    buffer[0] = 7
    let_go(buffer)
    again = used_again(size)
    assert again is buffer
    assert again[0] == 7, "it was not given back to the system"
