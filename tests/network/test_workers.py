"""The threads that serve sessions: registered before they start, used again, and joined."""

import threading

import pytest

from flserver.network import workers
from flserver.network.workers import Workers
from tests.patience import PATIENCE, eventually
from tests.recorder import raising


class Work:
    """A session that lasts until it is told to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.thread: threading.Thread | None = None
        self.over = threading.Event()
        self.known = False


class Crew:
    """Workers, and what they serve."""

    def __init__(self) -> None:
        self.workers: Workers[Work] = Workers(self._serve, lambda work: f"work-{work.number}")

    def _serve(self, work: Work) -> None:
        work.thread = threading.current_thread()
        work.known = work.thread in self.workers._threads
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
