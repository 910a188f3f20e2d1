"""The threads that serve sessions: registered before they start, used again, and joined."""

import threading

import pytest

from flserver.network import workers
from flserver.network.workers import Workers
from tests.patience import PATIENCE, eventually
from tests.recorder import raising


class Work:
    """A session that lasts until it is told to end, and ``waits`` for its peer meanwhile."""

    client = None

    def __init__(self, number: int, *, waits: bool = True, owner: str = "one") -> None:
        self.number, self.waits, self.owner = number, waits, owner
        self.thread: threading.Thread | None = None
        self.over = threading.Event()
        self.known = False


class Crew:
    """Workers, and what they serve."""

    def __init__(self) -> None:
        self.busy = False
        self.workers: Workers[Work] = Workers(self._serve, lambda work: f"work-{work.number}", lambda: self.busy)

    def _serve(self, work: Work) -> None:
        work.thread = threading.current_thread()
        work.known = work.thread in self.workers._threads
        if work.waits:
            self.workers.leave(work)
        assert work.over.wait(PATIENCE)

    def give(self, number: int) -> Work:
        """Work that is being done."""
        work = Work(number)
        self.workers.give(work)
        eventually(lambda: work.thread is not None)
        return work


def test_each_session_has_a_thread_of_its_own_which_is_known_named_and_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "KEPT_SECONDS", PATIENCE)
    crew = Crew()
    one, two = crew.give(1), crew.give(2)
    assert one.thread is not two.thread
    assert [work.thread.name for work in (one, two) if work.thread] == ["work-1", "work-2"]
    one.over.set()
    eventually(lambda: crew.workers._idle == 1)
    three = crew.give(3)
    assert three.thread is one.thread
    assert three.thread is not None
    assert three.thread.name == "work-3"
    assert all(work.known for work in (one, two, three))
    for work in (two, three):
        work.over.set()
    crew.workers.close()
    assert not crew.workers._threads


def test_a_thread_for_which_there_is_no_session_ends_and_the_next_one_is_served_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "KEPT_SECONDS", 0.01)
    crew = Crew()
    one = crew.give(1)
    one.over.set()
    eventually(lambda: len(crew.workers._ended) == 1)
    crew.workers.reap()
    assert crew.workers._idle == 0
    two = crew.give(2)
    assert two.thread is not one.thread
    two.over.set()
    crew.workers.close()
    assert not crew.workers._threads


def test_no_more_threads_than_are_kept_wait_and_the_others_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "KEPT", 2)
    monkeypatch.setattr(workers, "KEPT_SECONDS", PATIENCE)
    crew = Crew()
    all_work = [crew.give(number) for number in range(5)]
    for work in all_work:
        work.over.set()
    eventually(lambda: len(crew.workers._ended) == 3)
    crew.workers.reap()
    assert sum(work.thread.is_alive() for work in all_work if work.thread) == 2
    crew.workers.close()
    assert not any(work.thread.is_alive() for work in all_work if work.thread)


def test_closing_waits_for_what_is_being_done() -> None:
    crew = Crew()
    work = crew.give(1)
    closing = threading.Thread(target=crew.workers.close)
    closing.start()
    eventually(lambda: crew.workers._closed)
    assert closing.is_alive()
    work.over.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_where_no_thread_starts_nobody_serves_it_and_the_next_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="can't start"):
            crew.workers.give(Work(1))
    assert not crew.workers._threads
    crew.give(2).over.set()
    crew.workers.close()


def test_one_session_is_at_work_and_the_others_follow_on_its_thread_as_they_came() -> None:
    crew, all_work = Crew(), [Work(number, waits=False) for number in range(4)]
    for work in all_work:
        crew.workers.give(work)
    for work, later in zip(all_work, [*all_work[1:], None], strict=True):
        eventually(lambda work=work: work.thread is not None)
        assert later is None or later.thread is None
        work.over.set()
    eventually(lambda: crew.workers._idle == 1)
    assert {work.thread for work in all_work} == {all_work[0].thread}
    crew.workers.close()


def test_who_is_resumed_waits_for_who_is_at_work_and_goes_before_those_that_have_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "WORK_SECONDS", PATIENCE)
    crew, (one, two, new) = Crew(), [Work(number, waits=False) for number in range(3)]
    done: list[Work] = []
    serve = crew.workers._serve
    crew.workers._serve = lambda work: (done.append(work), serve(work))[1]  # type: ignore[assignment, func-returns-value]
    one.over.set()
    crew.workers.give(one)
    eventually(lambda: crew.workers._at_work is None and done == [one])
    crew.workers.give(two)
    crew.workers.give(new)
    crew.workers.resume(one)
    assert crew.workers.overtake(), "somebody waits"
    for work in (two, new):
        work.over.set()
    eventually(lambda: len(done) == 4)
    assert done == [one, two, one, new]
    crew.workers.resume(one)
    eventually(lambda: done[4:] == [one])
    crew.workers.close()


def test_those_who_wait_have_their_turn_address_by_address() -> None:
    crew = Crew()
    owners = ["many", "many", "many", "one", "many", "other", "one"]
    all_work = [Work(number, waits=False, owner=owner) for number, owner in enumerate(owners)]
    for work in all_work:
        crew.workers.give(work)
    for number in (0, 1, 3, 5, 2, 6, 4):
        eventually(lambda number=number: all_work[number].thread is not None)
        begun = [work for work in all_work if work.thread is not None and not work.over.is_set()]
        assert begun == [all_work[number]]
        all_work[number].over.set()
    crew.workers.close()


def test_while_the_interpreter_is_taken_nobody_waits_for_another_session() -> None:
    crew = Crew()
    first, second, third = (Work(number, waits=False) for number in range(3))
    for work in (first, second):
        crew.workers.give(work)
    eventually(lambda: first.thread is not None)
    assert second.thread is None
    crew.busy = True
    crew.workers.give(third)  # nor do those who waited before
    eventually(lambda: second.thread is not None and third.thread is not None)
    crew.busy = False
    fourth, fifth = Work(4, waits=False), Work(5, waits=False)
    second.over.set()
    crew.workers.give(fourth)
    crew.workers.give(fifth)
    assert fourth.thread is None, "the first one is at work still"
    first.over.set()
    eventually(lambda: fourth.thread is not None)
    assert fifth.thread is None
    for work in (third, fourth, fifth):
        work.over.set()
    crew.workers.close()
    assert not crew.workers._threads


def test_nobody_waits_for_a_session_that_waits_for_its_peer_or_is_at_work_for_long() -> None:
    crew = Crew()
    slow, after, last = Work(1, waits=False), Work(2, waits=False), Work(3, waits=False)
    for work in (slow, after, last):
        crew.workers.give(work)
    eventually(lambda: slow.thread is not None)
    crew.workers.leave(slow)
    eventually(lambda: after.thread is not None)
    crew.workers.leave(slow)  # once more: it has nothing to give up
    assert last.thread is None
    eventually(lambda: not crew.workers.overtake())
    eventually(lambda: last.thread is not None)
    assert not slow.over.is_set()
    assert not after.over.is_set()
    for work in (slow, after, last):
        work.over.set()
    crew.workers.close()
    assert not crew.workers._threads


def test_closing_serves_who_still_waits() -> None:
    crew = Crew()
    first, second = Work(1, waits=False), Work(2)
    crew.workers.give(first)
    crew.workers.give(second)
    closing = threading.Thread(target=crew.workers.close)
    closing.start()
    eventually(lambda: crew.workers._closed)
    crew.workers.leave(first)
    second.over.set()
    first.over.set()
    closing.join(PATIENCE)
    assert second.thread is not None
    assert not crew.workers._threads


def test_closing_serves_who_still_waits_also_where_other_threads_wait_for_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "KEPT_SECONDS", PATIENCE)
    crew = Crew()
    over, at_work, waiting = crew.give(1), Work(2, waits=False), Work(3)
    crew.workers.give(at_work)
    crew.workers.give(waiting)
    over.over.set()
    eventually(lambda: crew.workers._idle == 1)
    closing = threading.Thread(target=crew.workers.close)
    closing.start()
    eventually(lambda: crew.workers._closed)
    crew.workers.leave(at_work)
    eventually(lambda: waiting.thread is not None)
    for work in (at_work, waiting):
        work.over.set()
    closing.join(PATIENCE)
    assert not crew.workers._threads


def test_closing_waits_for_a_thread_that_is_just_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    crew, work = Crew(), Work(1)
    starting, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    start = threading.Thread.start

    def slowly(thread: threading.Thread) -> None:
        if thread.name == "work-1":
            starting.set()
            assert go_on.wait(PATIENCE)
        start(thread)

    def close() -> None:
        crew.workers.close()
        closed.set()

    monkeypatch.setattr(threading.Thread, "start", slowly)
    giving, closing = threading.Thread(target=crew.workers.give, args=(work,)), threading.Thread(target=close)
    giving.start()
    assert starting.wait(PATIENCE)
    closing.start()
    assert not closed.wait(0.1)
    go_on.set()
    work.over.set()
    for thread in (giving, closing):
        thread.join(PATIENCE)
    assert closed.is_set()
    assert work.thread is not None
