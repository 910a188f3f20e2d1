"""What became of updates that nodes had, and kept."""

from pathlib import Path

from flserver import events as e
from flserver.models.kept import KeptUpdates
from flserver.models.state import State, state_of
from tests.e2e.harness import Peer
from tests.ingest.several import Several


def moved(peer: Peer, by: float) -> State:
    """Take the model, and answer it moved by so much. Returns what was answered."""
    return state_of(peer.answer(by))


def lost(several: Several) -> list[tuple[str, list[tuple[str, int, int]]]]:
    return [
        (gone.node, [(one.client_id, one.round, one.attempt) for one in gone.updates])
        for gone in several.recorder.of(e.NodeLost)
    ]


def decided(ended: e.RoundCommitted | e.AttemptAborted) -> dict[str, tuple[str, bool]]:
    return {one.client_id: (one.participation, one.update_id is not None) for one in ended.outcomes}


def with_kept(several: Several, folder: Path) -> None:
    """Let all keep updates: each process has an object of its own over the same folder."""
    kept = KeptUpdates(folder, "run")
    several.committer._kept = kept
    several.desk.keep_with(kept, several.committer._strategy)
    for node in several.nodes:
        node.node._folding.kept = KeptUpdates(folder, "run")
