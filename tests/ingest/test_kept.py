"""With kept updates nothing is lost with a node that has them on a disk that others read."""

from pathlib import Path

import pytest
import torch

from flserver import events as e
from flserver.models.norms import Norms
from flserver.models.state import State, state_of
from flserver.rounds.norms import FIRST_ROUNDS, NormHistory
from tests.ingest.outcomes import decided, lost, with_kept
from tests.ingest.several import Several
from tests.patience import eventually


def test_what_was_kept_is_added_again_where_its_node_is_gone(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=3) as several:
        with_kept(several, tmp_path)
        a, b, c = several.peer("a"), several.peer("b"), several.peer("c")
        b.port = several.nodes[1].port
        states = [state_of(a.answer(0.5)), state_of(b.answer(0.25))]
        eventually(lambda: several.nodes[1].place.held.ids)
        several.nodes[1].cut()
        several.eventually_gone("node-2")
        states.append(state_of(c.answer(0.125)))
        assert several.finish() == "completed"
        (gone,) = several.recorder.of(e.NodeLost)
        assert gone.updates == ()
        committed = several.recorder.of(e.RoundCommitted)[1]
        assert [one.client_id for one in committed.outcomes if one.update_id is not None] == ["a", "b", "c"]
        mean = sum(state["fc1.weight"].double() for state in states) / 3
        assert torch.equal(several.exchange.model.state["fc1.weight"], mean.float())
        assert len(committed.kept) == 3
        assert all((tmp_path / kept.path).exists() for kept in committed.kept)


def test_what_was_suspect_and_counts_is_added_again_too(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=3) as several:
        with_kept(several, tmp_path)
        several.exchange._rounds.norms.history = NormHistory(FIRST_ROUNDS, Norms(1.0, 1.0))
        a, b, c = several.peer("a"), several.peer("b"), several.peer("c")
        b.port = several.nodes[1].port
        states = [state_of(peer.answer(4096.0)) for peer in (a, b)]  # two of three: a step that they all take
        eventually(lambda: several.nodes[1].node._folding.folded)
        several.nodes[1].cut()
        several.eventually_gone("node-2")
        states.append(state_of(c.answer(0.125)))
        assert several.finish() == "completed"
        (gone,) = several.recorder.of(e.NodeLost)
        assert gone.updates == ()
        mean = sum(state["fc1.weight"].double() for state in states) / 3
        assert torch.equal(several.exchange.model.state["fc1.weight"], mean.float())


def doubted(several: Several, folder: Path, clients: str) -> dict[str, State]:
    """Of four trainers have those answer what nobody had so far, the last one at the second node, which goes then. As
    nobody before them has answered, none of it is folded yet. Returns what counts where all of it does."""
    with_kept(several, folder)
    several.exchange._rounds.norms.history = NormHistory(FIRST_ROUNDS, Norms(1.0, 1.0))
    peers = {client: several.peer(client) for client in "abcd"}
    peers["d"].port = several.nodes[1].port
    answered = {client: state_of(peers[client].answer(4096.0)) for client in clients}
    eventually(lambda: several.nodes[1].place.held.ids)
    assert not several.nodes[1].node._folding.folded
    several.nodes[1].cut()
    several.eventually_gone("node-2")
    return answered | {client: state_of(peers[client].answer(0.125)) for client in "abcd" if client not in clients}


def test_what_was_suspect_and_is_certain_to_count_is_added_again_before_it_is_its_turn(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=4) as several:
        states = doubted(several, tmp_path, "cd")  # half of them: a step that they all take
        assert several.finish() == "completed"
        assert lost(several) == [("node-2", [])]
        committed = several.recorder.of(e.RoundCommitted)[1]
        assert decided(committed) == dict.fromkeys("abcd", ("answered", True))
        assert len(committed.kept) == 4
        mean = sum(state["fc1.weight"].double() for state in states.values()) / 4
        assert torch.equal(several.exchange.model.state["fc1.weight"], mean.float())


def test_what_is_suspect_and_may_not_count_is_lost_and_its_file_with_it(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=4) as several:
        states = doubted(several, tmp_path, "d")
        del states["d"]
        assert several.finish() == "completed"
        assert lost(several) == [("node-2", [("d", 1, 1)])]
        committed = several.recorder.of(e.RoundCommitted)[1]
        assert decided(committed) == {client: ("answered", client != "d") for client in "abcd"}
        assert len(committed.kept) == 3
        assert len([*(tmp_path / "run" / "updates").rglob("*.safetensors")]) == 1  # three times the same
        mean = sum(state["fc1.weight"].double() for state in states.values()) / 3
        assert torch.equal(several.exchange.model.state["fc1.weight"], mean.float())


def test_what_an_attempt_had_that_was_aborted_is_not_looked_for_where_its_node_goes_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Several(tmp_path, 2, clients=2) as several:
        with_kept(several, tmp_path)
        a, b = several.peer("a"), several.peer("b")
        a.port = several.nodes[1].port
        a.answer(0.5)
        eventually(lambda: several.nodes[1].place.held.ids)
        b.connection.close()
        several.recorder.wait_for(e.AttemptAborted)
        several.nodes[1].cut()
        several.eventually_gone("node-2")
        a.port = several.nodes[0].port
        back = several.peer("b")
        for peer in (a, back):
            peer.answer(0.5)
        assert several.finish() == "completed"
        assert [gone.updates for gone in several.recorder.of(e.NodeLost)] == [()]
    assert "lost" not in caplog.text


def test_what_cannot_be_read_any_more_is_lost_after_all(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=2, min_updates=1) as several:
        with_kept(several, tmp_path)
        a, b = several.peer("a"), several.peer("b")
        b.port = several.nodes[1].port
        b.answer(0.25)
        eventually(lambda: several.nodes[1].place.held.ids)
        for file in (tmp_path / "run" / "updates").rglob("*.safetensors"):
            file.unlink()
        several.nodes[1].cut()
        several.eventually_gone("node-2")
        mine = state_of(a.answer(0.5))
        assert several.finish() == "completed"
        (gone,) = several.recorder.of(e.NodeLost)
        assert [one.client_id for one in gone.updates] == ["b"]
        assert torch.equal(several.exchange.model.state["fc1.weight"], mine["fc1.weight"])
