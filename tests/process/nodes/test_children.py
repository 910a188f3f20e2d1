"""The ingest nodes of this machine, where they cannot be kept alive."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

from flserver.errors import StartError
from flserver.events import ClientLeft, NodeEnded, NodeLost, NodeStarted
from flserver.identity.rules import Identity
from flserver.ingest import told as t
from flserver.ingest.desk import Desk
from flserver.ingest.ids import Ids
from flserver.ingest.lines import LineEnd
from flserver.network.listener import Listener
from flserver.process.nodes import children as nodes
from flserver.process.nodes import restarts
from flserver.process.nodes.calls import Caller
from flserver.process.nodes.child import LOST, main, make_model
from flserver.process.nodes.terms import Terms
from flserver.rounds import Rounds
from flserver.rounds.exchange import Exchange
from flserver.rounds.model import CurrentModel
from flserver.settings import server_settings
from tests.ingest.at_desk import names
from tests.patience import DEADLINE, PATIENCE, eventually
from tests.recorder import RecordingRecorder, raising
from tests.rounds.policies import policy

MORE_THAN_A_LINE_HOLDS = 1 << 22  # bytes


class Served:
    """So many nodes of a desk, whose process is what ``sys.executable`` says."""

    def __init__(
        self,
        folder: Path,
        count: int,
        end_run: Callable[[str], None] = lambda why: None,
        recorder: RecordingRecorder | None = None,
    ) -> None:
        exchange = Exchange(Rounds(policy(), {}, None, Identity()), CurrentModel(0, {}, None))
        self.recorder = recorder or RecordingRecorder()
        self.desk = Desk(exchange, self.recorder, Ids({"message_id": 1, "connection_id": 1, "update_id": 1}))
        settings = server_settings({"db": str(folder / "runs.sqlite"), "ingest": count})
        self.listener = Listener("127.0.0.1", 0)
        self.nodes = nodes.Nodes(Terms(settings, "run"), self.listener, self.desk, end_run)


class Durable(RecordingRecorder):
    """Says how many losses are on record, as the log would tell of each then."""

    def flush(self) -> None:
        super().flush()
        logging.getLogger("flserver").info("on record: %d", len(self.of(NodeLost)))


def test_a_run_whose_nodes_all_end_at_once_ends_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flserver")
    monkeypatch.setattr("sys.executable", "/bin/false")
    ended, why = threading.Event(), list[str]()

    def end_run(reason: str) -> None:
        why.append(reason)
        ended.set()

    served = Served(tmp_path, 2, end_run, Durable())
    served.nodes.start()
    try:
        assert ended.wait(PATIENCE)
        assert (served.nodes.serving, served.nodes.accepting) == (0, False)
    finally:
        served.nodes.close(0.0)
    assert why == [restarts.NONE_LEFT]
    for slot in (1, 2):
        last = [started.node for started in served.recorder.of(NodeStarted) if started.slot == slot][-1]
        assert f"slot {slot}, where {last} was: {restarts.TOO_OFTEN}" in caplog.messages
    assert not served.recorder.of(ClientLeft)
    assert {lost.reason for lost in served.recorder.of(NodeLost)} == {"its process ended with exit code 1"}
    on_record = 0
    for line in caplog.messages:
        if line.startswith("on record: "):
            on_record = max(on_record, int(line.removeprefix("on record: ")))
        elif line.startswith("node-") and " serves trainers" in line:
            number = int(line.split()[0].removeprefix("node-"))
            assert on_record >= number - 2, "a loss is told of before another comes in its place"


def test_no_node_is_begun_of_other_sources_than_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an upgrade in place: it would not understand what it is told."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    digests = chain(["old"] * 2, repeat("new"))
    monkeypatch.setattr("flserver.process.provenance.digest_of_package", lambda: next(digests))
    ended = threading.Event()
    served = Served(tmp_path, 2, lambda why: ended.set())
    served.nodes.start()
    try:
        assert ended.wait(PATIENCE)
    finally:
        served.nodes.close(0.0)
    assert {started.node for started in served.recorder.of(NodeStarted)} == {"node-1", "node-2"}
    changed = "flserver's own files have changed since this server began: resume the run with them"
    for node in ("node-1", "node-2"):
        assert f"no node can be started in the place of {node}: {changed}" in caplog.messages


@pytest.mark.parametrize("which", ["sources", "thread"])
def test_a_start_that_fails_behind_the_first_node_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: None, which: str
) -> None:
    threads = set(threading.enumerate())
    served = Served(tmp_path, 2)
    if which == "sources":
        digests = chain(["old"], repeat("new"))
        monkeypatch.setattr("flserver.process.provenance.digest_of_package", lambda: next(digests))
    else:
        monkeypatch.setattr(served.nodes._looks, "start", raising(RuntimeError("can't start new thread")))
    with pytest.raises(StartError, match="files have changed" if which == "sources" else "can't start new thread"):
        served.nodes.start()
    assert names(served.desk) == []
    assert set(threading.enumerate()) == threads


@pytest.mark.usefixtures("hanging")
def test_who_looks_at_the_nodes_does_not_wait_for_one_that_is_told_a_long_roster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, telling, goes = Served(tmp_path, 1), threading.Event(), threading.Event()

    def tell(sock: socket.socket, body: bytes) -> None:
        telling.set()
        assert goes.wait(PATIENCE)

    monkeypatch.setattr(nodes, "send_first", tell)
    seen = list[tuple[int, int]]()
    starts = threading.Thread(target=served.nodes.start)
    looks = threading.Thread(target=lambda: seen.append((served.nodes.serving, served.nodes.open_connections)))
    starts.start()
    try:
        assert telling.wait(PATIENCE)
        looks.start()
        looks.join(DEADLINE)
        assert seen == [(0, 0)]
    finally:
        goes.set()
        starts.join()
        looks.join()
        served.nodes.close(0.0)


@pytest.mark.parametrize("over", [True, False])
def test_a_model_that_fails_counts_only_while_its_node_serves(over: bool, caplog: pytest.LogCaptureFixture) -> None:
    """After its goodbye the interpreter ends, and what still imports fails of that."""
    told = list[object]()
    asking = SimpleNamespace(outbox=SimpleNamespace(over=over), tell=told.append)
    make_model(SimpleNamespace(asking=asking), None)  # type: ignore[arg-type]
    assert ("the model could not be made" in caplog.text, len(told)) == ((False, 0) if over else (True, 1))


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's process neither hears nor says anything, nor ends when its line does."""
    script = tmp_path / "hanging"
    script.write_text("#!/bin/sh\nexec sleep 3600\n")
    script.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(script))
    monkeypatch.setattr(nodes, "END_SECONDS", 0.1)


@pytest.mark.usefixtures("hanging")
def test_who_looks_at_the_nodes_does_not_wait_for_the_record(tmp_path: Path) -> None:
    served, room, waits = Served(tmp_path, 1), threading.Event(), threading.Event()

    def full() -> None:
        waits.set()
        assert room.wait(PATIENCE)

    served.recorder.before[NodeStarted] = full
    seen = list[tuple[bool, int]]()
    starts = threading.Thread(target=served.nodes.start)
    looks = threading.Thread(target=lambda: seen.append((served.nodes.accepting, served.nodes.open_connections)))
    starts.start()
    try:
        assert waits.wait(PATIENCE)
        looks.start()
        eventually(lambda: seen)
    finally:
        room.set()
        looks.join()
        starts.join()
        served.nodes.close(0.0)
    assert seen == [(False, 0)]


@pytest.mark.usefixtures("hanging")
def test_a_node_that_begins_as_the_run_ends_ends_with_it(tmp_path: Path) -> None:
    served = Served(tmp_path, 1)

    def ends() -> None:
        stops = threading.Thread(target=served.nodes.stop_accepting)
        stops.start()
        stops.join(PATIENCE)

    served.recorder.before[NodeStarted] = ends
    served.nodes.start()
    served.nodes.close(0.0)
    (started,) = served.recorder.of(NodeStarted)
    with pytest.raises(ProcessLookupError):
        os.kill(started.pid, 0)
    assert [ended.node for ended in served.recorder.of(NodeEnded)] == ["node-1"]
    assert not served.recorder.of(NodeLost)


@pytest.mark.usefixtures("hanging")
@pytest.mark.parametrize("which", ["calls", "asks", "line-out", "line-in", "ingest"])
def test_a_node_for_which_the_system_has_no_thread_is_given_up_and_nothing_of_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    ended, start, made = list[str](), threading.Thread.start, list["subprocess.Popen[bytes]"]()
    popen = subprocess.Popen

    def starts(one: threading.Thread) -> None:
        if one.name == f"{which}-node-2":
            raise RuntimeError("can't start new thread")
        start(one)

    def makes(*given: object, **more: object) -> "subprocess.Popen[bytes]":
        made.append(popen(*given, **more))  # type: ignore[call-overload]
        return made[-1]

    monkeypatch.setattr(threading.Thread, "start", starts)
    monkeypatch.setattr(subprocess, "Popen", makes)
    served = Served(tmp_path, 1, ended.append)
    served.nodes.start()
    try:
        made[0].kill()
        eventually(lambda: ended)
        assert ended == [restarts.NONE_LEFT]
        assert "no node can be started in the place of node-1: can't start new thread" in caplog.text
        assert (made[1].returncode, names(served.desk)) == (-signal.SIGKILL, [])
        assert [child.place.name for child in served.nodes._children] == ["node-1"]
        if which != "ingest":
            lost = [(lost.node, lost.reason) for lost in served.recorder.of(NodeLost)]
            assert lost[1:] == [("node-2", "it could not begin: can't start new thread")]
    finally:
        served.nodes.close(0.0)
    assert not [one for one in threading.enumerate() if one.name.endswith("node-2")]


@pytest.fixture
def starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's process is being started for long, and says in a file which signals it has blocked meanwhile."""
    script, blocked = tmp_path / "starting", tmp_path / "blocked"
    script.write_text(  # no shell: some give all signals free
        f"#!{sys.executable} -IS\n"
        "import os, signal\n"
        f"with open(f'{blocked}.{{os.getpid()}}', 'w') as file:\n"
        "    print(*(int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())), file=file)\n"
        f"os.replace(file.name, '{blocked}')\n"
        "signal.pause()\n"
    )
    script.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(script))
    return blocked


def test_a_node_that_is_being_started_hears_no_signal_and_ends_with_its_server_at_once(
    tmp_path: Path, starting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "END_SECONDS", PATIENCE)  # nobody waits for what it would say
    served = Served(tmp_path, 2)
    served.nodes.start()
    try:
        eventually(starting.exists)
        blocked = set(map(int, starting.read_text().split()))
        assert blocked >= {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
    finally:
        served.nodes.close(PATIENCE)
    assert all(child.process.returncode == -signal.SIGKILL for child in served.nodes._children)
    assert not served.recorder.of(NodeLost)


def test_a_node_whose_server_is_gone_before_it_has_begun_ends_with_no_more_than_a_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (ours, its), (calls, called) = socket.socketpair(), socket.socketpair()
    ours.close()
    for of_the_process in ("signal.signal", "allow_descriptors", "limit_arenas"):
        monkeypatch.setattr(f"flserver.process.nodes.child.{of_the_process}", lambda *_: None)
    with Listener("127.0.0.1", 0).socket as listening, calls, called:
        assert main(listening.fileno(), its.detach(), called.fileno()) == LOST


@pytest.mark.usefixtures("hanging")
def test_another_comes_in_the_place_of_a_node_that_the_desk_takes_for_gone(tmp_path: Path) -> None:
    served = Served(tmp_path, 1)
    served.nodes.start()
    try:
        (hung,) = served.nodes._children
        hung.place.gone("it has not given its sum")
        eventually(lambda: names(served.desk) == ["node-2"])
        eventually(lambda: hung.process.poll() is not None)
        assert (served.nodes.serving, served.nodes.accepting) == (0, True), "it is there, and has said nothing yet"
    finally:
        served.nodes.close(0.0)
    assert (served.recorder.of(NodeLost)[0].node, served.recorder.of(NodeLost)[0].reason) == (
        "node-1",
        "it has not given its sum",
    )


@pytest.mark.usefixtures("hanging")
def test_how_a_node_ended_is_on_record_and_not_that_the_server_killed_what_lost_its_line(tmp_path: Path) -> None:
    served = Served(tmp_path, 2)
    served.nodes.start()
    try:
        killed, cut = served.nodes._children
        killed.process.send_signal(signal.SIGUSR1)
        eventually(lambda: "node-1" not in names(served.desk))
        cut.line.cut()
        eventually(lambda: cut.process.poll() is not None and "node-2" not in names(served.desk))
    finally:
        served.nodes.close(0.0)
    assert cut.process.returncode == -signal.SIGKILL
    assert [(lost.node, lost.reason) for lost in served.recorder.of(NodeLost)] == [
        ("node-1", "its process was killed by SIGUSR1"),
        ("node-2", "its process ended"),
    ]


@pytest.mark.usefixtures("hanging")
def test_another_comes_in_each_place_where_many_die_at_once(tmp_path: Path) -> None:
    served = Served(tmp_path, restarts.BURST + 1)
    served.nodes.start()
    try:
        died = list(served.nodes._children)
        for child in died:
            child.process.kill()

        def slots() -> set[int]:
            return {place.slot for place in served.desk._places if place not in [child.place for child in died]}

        eventually(lambda: slots() == {child.place.slot for child in died})
    finally:
        served.nodes.close(0.0)


@pytest.mark.usefixtures("hanging")
def test_another_comes_in_the_place_of_a_node_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "STUCK_SECONDS", 0.05)
    served = Served(tmp_path, 1)
    served.nodes.start()
    try:
        (hung,) = served.nodes._children
        hung.place.outbox.put(t.Model(1, (memoryview(bytes(MORE_THAN_A_LINE_HOLDS)),)))
        eventually(lambda: names(served.desk) == ["node-2"])
        assert served.recorder.of(NodeLost)[0].reason == "it has taken nothing of what it was told for 0.05 s"
    finally:
        served.nodes.close(0.0)


@pytest.mark.usefixtures("hanging")
def test_a_node_that_takes_nothing_ends_with_the_server(tmp_path: Path) -> None:
    (ours, its), (calls, called) = socket.socketpair(), socket.socketpair()
    process = subprocess.Popen(["sleep", "3600"], stdin=its)
    its.close()
    called.close()
    served = Served(tmp_path, 1)
    served.listener.close()
    place = served.desk.open("node-1")
    line = LineEnd(ours, place, "node-1", ended=place.gone, over=lambda: place.outbox.over)
    line.start()
    caller = Caller(calls, "node-1", PATIENCE)
    place.outbox.put(t.Model(1, (memoryview(bytes(MORE_THAN_A_LINE_HOLDS)),)))
    place.outbox.close()
    ends = threading.Thread(target=nodes.Child(process, place, line, caller).end, daemon=True)
    ends.start()
    try:
        ends.join(PATIENCE)
        assert not ends.is_alive()
    finally:
        process.kill()
        process.wait()
