"""What a server asks of a node's process beside its line, and the memory that goes along."""

import fcntl
import mmap
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

from flserver.models.state import State
from flserver.process.nodes import calls
from flserver.process.nodes.calls import (
    Answer,
    Answering,
    Caller,
    CallerGone,
    CallFailed,
    Shared,
    receive,
    send,
)
from flserver.process.nodes.descriptors import close_all
from flserver.process.nodes.values import memory_of, put, state_in
from tests.patience import PATIENCE, eventually
from tests.process.nodes.calling import between, descriptors
from tests.recorder import raising

STATE: State = {
    "w": torch.arange(70, dtype=torch.float32).view(7, 10),
    "none": torch.empty(0, 3, dtype=torch.int64),
    "n": torch.tensor(5),
    "half": torch.ones(3, dtype=torch.float16),
    "mask": torch.tensor([True, False]),
}


def test_states_in_one_file_outlive_its_descriptor_and_have_no_name() -> None:
    before = descriptors()
    descriptor, values = put([STATE, {}, {"w": torch.full((3,), 2.0)}])
    assert "memfd:flserver (deleted)" in os.readlink(f"/proc/self/fd/{descriptor}")
    memory, file = memory_of(descriptor), str(os.fstat(descriptor).st_ino)
    os.close(descriptor)
    assert descriptors() == before
    first, empty, last = (state_in(memory, value.tensors) for value in values)
    assert list(first) == list(STATE)
    for name, tensor in STATE.items():
        assert first[name].dtype == tensor.dtype
        assert torch.equal(first[name], tensor)
    assert empty == {}
    assert last["w"].tolist() == [2.0] * 3

    def is_mapped() -> bool:
        return any(line.split()[4] == file for line in Path("/proc/self/maps").read_text().splitlines())

    assert is_mapped()
    del memory, first, last
    assert not is_mapped()


def test_a_state_that_was_handed_over_cannot_be_changed_and_none_is_taken_that_could_be() -> None:
    descriptor, _ = put([STATE])
    memory = memory_of(descriptor)
    for change in (
        lambda: os.pwrite(descriptor, b"x", 0),
        lambda: os.ftruncate(descriptor, 1),
        lambda: os.ftruncate(descriptor, 1 << 20),
        lambda: mmap.mmap(descriptor, 1),
    ):
        with pytest.raises(PermissionError):
            change()
    assert bytes(memory[4:8]) == STATE["w"].numpy().tobytes()[4:8]
    os.close(descriptor)
    for seals in (0, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL):
        descriptor = os.memfd_create("theirs", os.MFD_ALLOW_SEALING)
        os.write(descriptor, b"1234")
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        with pytest.raises(PermissionError, match="it is not sealed"):
            memory_of(descriptor)
        os.close(descriptor)


def test_answers_come_in_order_and_failures_are_answers(caplog: pytest.LogCaptureFixture) -> None:
    def fail(given: list[object], taken: list[int]) -> tuple[list[object], list[int]]:
        raise ValueError("a defect")

    with between({"say": lambda given, taken: (given, []), "fail": fail}) as (caller, _):
        asked = [caller.call("say", number) for number in range(5)]
        failed, after = caller.call("fail"), caller.call("say", "after")
        assert [answer.result(PATIENCE).what for answer in asked] == [[number] for number in range(5)]
        with pytest.raises(CallFailed, match="a defect"):
            failed.result(PATIENCE)
        assert after.result(PATIENCE).what == ["after"]
    assert "fail failed" in caplog.text


def test_more_files_go_along_than_one_message_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_DESCRIPTORS", 3)
    before = descriptors()
    ours, its = socket.socketpair()
    files = [put([{"w": torch.tensor([number])}])[0] for number in range(8)]
    sending = threading.Thread(target=send, args=(ours, ["here"], files))
    sending.start()
    what, taken = receive(its)
    sending.join()
    assert what == ["here"]
    assert [int(memory_of(one)[0]) for one in taken] == list(range(8))
    close_all([*files, *taken])
    ours.close()
    its.close()
    assert descriptors() == before


def test_what_ends_early_leaves_no_file_open() -> None:
    before = descriptors()
    ours, its = socket.socketpair()
    body = b'["here", 2]'
    (file, _) = put([STATE])
    ours.sendall(len(body).to_bytes(8, "big") + body)
    socket.send_fds(ours, [b"\0"], [file])
    ours.close()
    with pytest.raises(EOFError):
        receive(its)
    its.close()
    os.close(file)
    assert descriptors() == before


def test_whoever_asks_one_that_is_gone_is_told_so() -> None:
    reached, goes = threading.Event(), threading.Event()

    def wait(given: list[object], taken: list[int]) -> tuple[list[object], list[int]]:
        reached.set()
        goes.wait(PATIENCE)
        return [], []

    with between({"wait": wait}) as (caller, answering):
        asked = caller.call("wait")
        assert reached.wait(PATIENCE)
        calls.cut(answering._socket)
        with pytest.raises(CallerGone):
            asked.result(PATIENCE)
        with pytest.raises(CallerGone):
            caller.call("wait").result(PATIENCE)
        goes.set()


def test_where_nothing_is_answered_any_more_both_ends_know(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, its = socket.socketpair()
    known = threading.Semaphore(0)
    caller, answering = Caller(ours, "node-1", PATIENCE, ended=known.release), Answering(its, {}, ended=known.release)

    def no_room(sock: socket.socket) -> calls.Said:
        if sock is its:
            raise OSError(24, "Too many open files")
        return receive(sock)

    monkeypatch.setattr(calls, "receive", no_room)
    caller.start()
    answering.start()
    with pytest.raises(CallerGone):
        caller.call("say").result(PATIENCE)
    assert all(known.acquire(timeout=PATIENCE) for _ in range(2))
    assert caller.over
    caller.close()
    answering.close()


def test_who_calls_does_not_wait_for_one_that_takes_nothing_and_no_file_stays() -> None:
    before = descriptors()
    ours, its = socket.socketpair()
    with its, closing(Caller(ours, "node-1", PATIENCE)) as caller:
        caller.start()
        file, _ = put([STATE])
        asked = [caller.call("say", "x" * (1 << 20), descriptors=[file]) for _ in range(3)]
        os.close(file)  # it is the caller's own, also while it is still to be sent
        assert not any(answer.done() for answer in asked)
    for answer in asked:
        with pytest.raises(CallerGone):
            answer.result(PATIENCE)
    assert descriptors() == before


def test_what_goes_along_is_the_file_that_was_meant_though_the_caller_has_closed_it() -> None:
    ours, its = socket.socketpair()
    with its, closing(Caller(ours, "node-1", PATIENCE)) as caller:
        caller.start()
        first, _ = put([{"w": torch.tensor([1.0])}])
        caller.call("say", "x" * (1 << 20))
        caller.call("say", "y", descriptors=[first])
        os.close(first)
        other, _ = put([{"w": torch.tensor([2.0])}])
        assert other == first, "the system gives the number again"
        receive(its)
        (_, word), (came,) = receive(its)
        assert (word, os.pread(came, 4, 0)) == ("y", torch.tensor([1.0]).numpy().tobytes())
        close_all([other, came])


def test_what_calls_share_is_there_until_the_last_of_them_is_sent_and_no_longer() -> None:
    before, ended = descriptors(), list[bool]()
    ours, its = socket.socketpair()
    file, _ = put([STATE])

    def end() -> None:
        ended.append(True)
        os.close(file)

    with its, closing(Caller(ours, "node-1", PATIENCE)) as caller:
        caller.start()
        shared = Shared(end)
        for what in ("x" * (1 << 20), "y"):
            caller.call("say", what, descriptors=[file], shared=shared)
        shared.let_go()
        assert not ended
        inode = os.fstat(file).st_ino
        for first in "xy":
            (_, word), (came,) = receive(its)
            assert (word[0], os.fstat(came).st_ino) == (first, inode)
            os.close(came)
        eventually(lambda: ended == [True])
        caller.cut()
        eventually(lambda: caller.over)
        caller.call("say", descriptors=[file], shared=shared)  # nothing is sent, or taken
    assert ended == [True]
    assert descriptors() == before


def test_what_was_to_be_sent_and_never_is_leaves_no_file_open() -> None:
    before, ended = descriptors(), list[bool]()
    ours, its = socket.socketpair()
    file, _ = put([STATE])
    with its, closing(Caller(ours, "node-1", PATIENCE)) as caller:  # it never starts
        shared = Shared(lambda: ended.append(True))
        caller.call("say", descriptors=[file], shared=shared)
        caller.call("say", descriptors=[file])
        shared.let_go()
        assert not ended
        os.close(file)
    assert ended == [True]
    assert descriptors() == before


def test_what_cannot_be_said_fails_who_says_it_and_nothing_else() -> None:
    before = descriptors()
    with between({"say": lambda given, taken: (given, taken)}) as (caller, _):
        file, _ = put([STATE])
        with pytest.raises(TypeError):
            caller.call("say", {1, 2}, descriptors=[file])
        said = caller.call("say", "after", descriptors=[file]).result(PATIENCE)
        assert said.what == ["after"]
        close_all([file, *said.descriptors])
    assert descriptors() == before


def test_where_sending_fails_by_a_defect_it_is_over_and_no_file_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = descriptors()
    monkeypatch.setattr(calls, "_send", raising(ValueError("a defect")))
    with between({}) as (caller, _):
        file, _ = put([STATE])
        asked = [caller.call("say", descriptors=[file]) for _ in range(2)]
        os.close(file)
        for answer in asked:
            with pytest.raises(CallerGone):
                answer.result(PATIENCE)
    assert "node-1 cannot be asked" in caplog.text
    assert descriptors() == before


@contextmanager
def most_descriptors(number: int) -> Iterator[None]:
    """None above that number is opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_not_all_files_can_be_taken_none_is_waited_for_or_stays() -> None:
    before = descriptors()
    ours, its = socket.socketpair()
    file, _ = put([STATE])
    os.close(free := os.dup(file))
    send(ours, "here", [file, file])
    its.settimeout(PATIENCE)
    with most_descriptors(free), pytest.raises(OSError, match="Too many open files"):
        receive(its)
    for one in (ours, its):
        one.close()
    os.close(file)
    assert descriptors() == before


def test_who_has_no_descriptors_left_for_an_answer_is_told_so() -> None:
    before, may = descriptors(), threading.Event()
    file, _ = put([STATE])

    def give(given: list[object], taken: list[int]) -> Answer:
        assert may.wait(PATIENCE)
        return [], [file]

    with between({"give": give}) as (caller, _):
        asked = caller.call("give")
        with most_descriptors(2):
            may.set()
            with pytest.raises(CallerGone, match="the server may have no more descriptors"):
                asked.result(PATIENCE)
    assert descriptors() == before


def test_one_that_takes_nothing_is_gone() -> None:
    ours, its = socket.socketpair()
    caller = Caller(ours, "node-1", 0.05)
    caller.start()
    asked = [caller.call("say", "x" * (1 << 20)) for _ in range(3)]
    for answer in asked:
        with pytest.raises(CallerGone):
            answer.result(PATIENCE)
    caller.close()
    its.close()
