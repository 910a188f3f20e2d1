"""A server that is gone, and the run's next one over the same nodes: their trainers stay."""

import pickle
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from flserver.aggregation.checks import state_digest
from flserver.clock import monotonic
from flserver.errors import StoreError
from flserver.events import ClientRegistered, ConnectionOpened, MessageReceived, UpdateReceived
from flserver.identity.peer import Peer as WhoItIs
from flserver.ingest import told as t
from flserver.ingest.batches import Item, to_bytes
from flserver.ingest.node import Node
from flserver.models.state import state_of
from flserver.network.listener import Listener
from flserver.process.nodes.terms import Terms
from flserver.process.ray import node as ray_node
from flserver.process.ray.known import KnownBy
from flserver.process.ray.left import idle_of
from flserver.process.ray.node import OTHERS, SERVES_NONE, RayNode
from flserver.process.ray.served import Served
from flserver.settings import server_settings
from tests.certificates import Authority
from tests.e2e.harness import Peer, closed
from tests.ingest.on_threads import OnThreads, changed, initial, on_one, uploaded
from tests.patience import PATIENCE, eventually


def test_who_has_answered_is_told_from_all_that_nodes_and_the_record_know() -> None:
    here = {"holds": {"a": (3, 1), "b": (3, 2), "c": (2, 1), "d": (3, 1)}, "answered": {"a": (2, 1)}}
    there = {"holds": {}, "answered": {"a": (3, 1), "b": (3, 1), "x": (9, 9)}}
    asked = []

    def answers(round: int) -> list[tuple[str, int, int]]:
        asked.append(round)
        return [("c", 2, 1), ("y", 3, 1)]

    assert idle_of([here, there], answers) == {"a", "c"}
    assert asked == [2]
    assert idle_of([there], answers) == frozenset()
    assert asked == [2]


def test_trainers_stay_where_their_server_goes_and_what_they_train_counts(tmp_path: Path) -> None:
    clients = 4
    with OnThreads(tmp_path, 2, 1, clients) as before:
        ports = before.ports()
        peers = [Peer(ports[client % 2], client, 10 + client) for client in range(clients)]
        for peer in peers:
            before.several._peers.enter_context(peer).join()
        models = [state_of(peer.model()) for peer in peers]
        uploaded(peers[0], ports[1], changed(models[0], 0, 1))  # at the node where it is not registered
        before.several.recorder.wait_for(UpdateReceived)
        after = OnThreads(tmp_path, 2, 1, clients)
        after.threads.actors = before.threads.actors
        with after:
            after.ports()
            found = after.several.recorder.wait_for(ClientRegistered, clients)
            assert {one.client_id for one in found} == set("0123")
            there = {one.connection_id for one in before.several.recorder.of(ClientRegistered)}
            assert {one.inherited_from for one in after.several.recorder.of(ConnectionOpened)} == there
            assert after.several.recorder.of(MessageReceived) == []  # nobody had to say anything
            assert state_digest(state_of(peers[0].model())) == state_digest(state_of(initial()))
            for client, peer in enumerate(peers):
                uploaded(peer, after.ports()[client % 2], changed(models[client], client, 1))
            for peer in peers:
                peer.finished()  # and no other model before
            assert after.several.finish() == "completed"
            assert [state_digest(after.several.exchange.model.state)] == on_one(clients, 1)
            assert all(event.decision is None for event in after.several.recorder.of(UpdateReceived))


@pytest.mark.parametrize("whole", ["while there is no server", "and cannot be used", "as the next one takes over"])
def test_who_has_uploaded_where_no_server_answers_is_idle_and_sent_the_model_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: str
) -> None:
    early = whole != "as the next one takes over"
    monkeypatch.setattr(WhoItIs, "local", not early)  # one client of a host: that it is asked for its update is asked
    monkeypatch.setattr(ray_node, "HAND_ON_SECONDS", PATIENCE)
    with OnThreads(tmp_path, 1, 1, 1) as before:
        (port,) = before.ports()
        peer = before.several._peers.enter_context(Peer(port, 1)).join()
        body = peer.body(changed(state_of(peer.model()), 1, 1))
        if whole == "and cannot be used":
            body = pickle.dumps({"header": "<MODEL>", "id": 1, "model": "none"})
        frame = len(body).to_bytes(8, "big") + body
        (place,) = before.several.desk._places
        monkeypatch.setattr(place, "give", lambda batch: None)
        served = before.threads.actors["node-1"].kept._served
        assert served is not None
        with peer.connect() as upload:
            upload.sendall(frame if early else frame[:-1])
            if early:
                eventually(lambda: served.node.asking._waiting)
            else:
                begin_close = served.node._begin_close

                def last(grace: float) -> None:
                    begin_close(grace)
                    upload.sendall(frame[-1:])

                monkeypatch.setattr(served.node, "_begin_close", last)
            after = OnThreads(tmp_path, 1, 1, 1)
            after.threads.actors = before.threads.actors
            with after:
                after.ports()
                assert after.nodes._left.idle == {"1"}
                assert closed(upload)
                peer.upload(changed(state_of(peer.model()), 1, 1))
                peer.finished()
                assert after.several.finish() == "completed"


def test_who_is_in_the_middle_of_something_is_let_go_and_the_port_stays(tmp_path: Path) -> None:
    with OnThreads(tmp_path, 1, 1, 2) as before:
        (port,) = before.ports()
        with Peer(port, 0).join(), Peer(port, 9) as half:
            half.connection.sendall(b"\0\0\0\0")
            after = OnThreads(tmp_path, 1, 1, 2)
            after.threads.actors = before.threads.actors
            with after:
                after.several.recorder.wait_for(ClientRegistered)
                assert closed(half.connection)
                assert after.ports() == [port]
                with Peer(port, 1).join():
                    after.several.recorder.wait_for(ClientRegistered, count=2)


def test_a_server_that_was_paused_over_the_takeover_has_no_say_in_the_nodes(tmp_path: Path) -> None:
    with OnThreads(tmp_path, 1, 1, 1) as before:
        (port,) = before.ports()
        old, node = before.nodes._own, before.threads.actors["node-1"].kept
        after = OnThreads(tmp_path, 1, 1, 1)
        after.threads.actors = before.threads.actors
        with after:
            assert after.ports() == [port]
            served = node._served
            close = to_bytes([Item(t.Close(0.0))])
            for call in (
                lambda: node.take(old, 0.0),
                lambda: node.give(old, close),
                lambda: node.model(old, 1, []),
                lambda: node.cut(old, 0, 1, 0, 1),
                lambda: node.made(old, 0, 1, 0, 1),
            ):
                with pytest.raises(StoreError, match=OTHERS):
                    call()
            with Peer(port, 1).join() as peer:
                peer.upload(changed(state_of(peer.model()), 1, 1))
                peer.finished()
            assert after.several.finish() == "completed"
            assert node._served is served


@pytest.fixture
def node() -> Iterator[RayNode]:
    """A node of one server's, which is in this process."""
    with mock.patch("flserver.process.ray.node.log_as"), mock.patch.object(RayNode, "where", return_value={}):
        kept = RayNode()
        assert "error" not in begin(kept, "the first one")
        yield kept
        kept.stop()


def begin(node: RayNode, server: str, **values: object) -> dict[str, Any]:
    return begin_at(node, 0, server, **values)


def begin_at(node: RayNode, port: int, server: str, **values: object) -> dict[str, Any]:
    settings = server_settings({"model": "tests.ingest.on_threads:initial", "server_port": port, "ingest": 1, **values})
    return node.begin(Terms(settings, "run").told("node-1"), "127.0.0.1", port, False, server)


def test_a_server_that_loses_the_run_while_it_begins_a_node_begins_none(
    node: RayNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = Served.end

    def end(served: Served) -> None:
        ends(served)
        node.hand_on("the next one")

    with monkeypatch.context() as patched:
        patched.setattr(Served, "end", end)
        assert begin(node, "the first one") == {"error": OTHERS}
    assert node.serves() == "the next one"
    with pytest.raises(StoreError, match=OTHERS):
        node.take("the first one", 0.0)


def test_a_node_whose_server_has_fallen_silent_is_the_next_ones_that_begins_it(
    node: RayNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node._end(SERVES_NONE, where_silent=True)  # it has just been begun: the watch saw what was before
    assert node.serves() == "the first one"
    with monkeypatch.context() as patched:
        patched.setattr(ray_node, "SILENT_SECONDS", -1.0)
        eventually(lambda: node._port is None)
    assert "error" not in begin(node, "the next one")
    assert node.serves() == "the next one"


def test_a_node_whose_next_server_is_being_prepared_lets_nobody_go_until_somebody_has_it(
    node: RayNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node._stopped.set()  # the test looks

    def looked() -> bool:
        """Whether the node has kept its port where nobody has asked for long, but for what was said just now."""
        node._end(SERVES_NONE, where_silent=True)
        return node._port is not None

    node._asked -= 2 * ray_node.SILENT_SECONDS
    assert node.stay("the first one")
    assert looked()
    node.hand_on("the next one")
    node._asked -= 2 * ray_node.SILENT_SECONDS
    assert not node.stay("the first one")
    assert not looked()


def test_a_node_that_did_not_run_for_long_takes_that_for_nobodys_silence(node: RayNode) -> None:
    node._stopped.set()  # the test looks
    node._asked -= 2 * ray_node.SILENT_SECONDS
    looked = node._look(monotonic() - 2 * ray_node.SILENT_SECONDS)
    assert node._port is not None
    node._asked -= 2 * ray_node.SILENT_SECONDS
    node._look(looked)
    assert node._port is None


def test_nodes_are_told_to_stay_until_they_are_taken_over(tmp_path: Path) -> None:
    staying = mock.Mock()
    with OnThreads(tmp_path, 1, 1, 1, staying=staying) as run:
        assert staying.method_calls == [mock.call.end()]
        run.ports()
    assert staying.method_calls == [mock.call.end(), mock.call.close()]


def test_a_node_that_cannot_listen_where_the_next_server_has_it_lets_its_trainers_go_too(
    node: RayNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = mock.Mock(metadata=mock.Mock(client_id="1"))
    node.hand_on("the next one")
    node._left = [trainer]
    with closing(Listener("127.0.0.1", 0)) as busy:
        assert "in use" in begin_at(node, busy.address[1], "the next one")["error"]
    assert not trainer.close.called
    monkeypatch.setattr(ray_node, "SILENT_SECONDS", -1.0)
    eventually(lambda: trainer.close.called)


@pytest.mark.parametrize("secured", [False, True])
def test_trainers_come_back_by_themselves_where_the_next_server_knows_peers_by_other_settings(
    tmp_path: Path, node: RayNode, secured: bool
) -> None:
    cert = Authority(tmp_path).server("localhost").in_one_file()
    trainer = mock.Mock(metadata=mock.Mock(client_id="1"))
    node.hand_on("the next one")
    node._left = [trainer]
    start = Node.start
    with mock.patch.object(Node, "start", autospec=True, side_effect=lambda it, _: start(it)) as started:
        assert "error" not in begin(node, "the next one", **({"tls_cert": str(cert)} if secured else {}))
    ((_, inherited),) = [call.args for call in started.call_args_list]
    assert (len(inherited), trainer.close.called) == ((0, True) if secured else (1, False))


def test_who_peers_are_is_known_by_the_settings_that_say_so(tmp_path: Path) -> None:
    issuers = tmp_path / "ca.pem"
    issuers.write_text("one")
    values = {"tls_cert": "cert.pem", "tls_client_ca": str(issuers), "clients": "roster", "trusted_proxy": "10.0.0.1"}
    before = KnownBy.of(server_settings(values))
    assert KnownBy.of(server_settings(values | {"num_rounds": 77})) == before
    for name, other in (("tls_cert", None), ("clients", None), ("trusted_proxy", None), ("insecure", True)):
        assert KnownBy.of(server_settings({**values, name: other})) != before
    issuers.write_text("another")
    assert KnownBy.of(server_settings(values)) != before
