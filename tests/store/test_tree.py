"""The tree over the events' digests is kept as they are written, and an older database gets it when it is upgraded."""

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from flserver.errors import StoreError
from flserver.heads.tree import Frontier, consistency_proof, extends, inclusion_proof, root_from_inclusion
from flserver.store import tree
from flserver.store.appending import Appending, Head, signs_nothing
from flserver.store.derive.statements import Rows
from flserver.store.payloads import to_payload
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.sqlite import writing_engine
from tests import facts
from tests.heads import naive
from tests.old_database import old_database
from tests.store import story
from tests.store.conftest import Ask
from tests.store.recording import Recording, states


def leaves(ask: Ask) -> list[bytes]:
    return [bytes.fromhex(str(digest)[7:]) for (digest,) in ask("SELECT digest FROM events ORDER BY seq")]


def of(database: Path) -> Connection:
    return writing_engine(database).connect()


def test_the_tree_grows_with_the_events_whatever_transactions_they_share(database: Path, ask: Ask) -> None:
    for _ in range(3):
        story.write(database, states(200))
        found = leaves(ask)
        with of(database) as connection:
            standing = tree.frontier_of(connection)
        assert (standing.size, standing.root) == (len(found), naive.mth(found))
    assert ask("SELECT level, place, hash FROM tree_nodes ORDER BY 1, 2") == [
        (8, place, tree.written(naive.mth(found[256 * place : 256 * (place + 1)]))) for place in range(2)
    ]


def test_a_transaction_that_is_rolled_back_leaves_no_leaf(recording: Recording, database: Path, ask: Ask) -> None:
    recording.start()
    recording.writer.emit(facts.run_started())
    recording.writer.flush()
    assert recording.writer.sequence == 1
    head = recording.writer.last_digest
    recording.writer.emit(facts.run_started())  # there is one already
    recording.writer.close()
    assert len(recording.failures) == 1
    assert (recording.writer.sequence, recording.writer.last_digest) == (1, head)
    story.write(database, states(1))
    with of(database) as connection:
        assert tree.frontier_of(connection).root == naive.mth(leaves(ask))


@pytest.fixture
def recording(database: Path) -> Recording:
    return Recording(database)


def test_proofs_are_made_of_what_is_kept(database: Path, ask: Ask) -> None:
    story.write(database, states(700))
    found = leaves(ask)
    root = naive.mth(found)
    with of(database) as connection:
        nodes = tree.StoredNodes(connection)
        for index in (0, 255, 256, 511, 512, 699):
            proof = inclusion_proof(nodes, index, 700)
            assert root_from_inclusion(found[index], index, 700, proof) == root
        for size in (1, 255, 256, 257, 600, 699):
            assert extends(size, naive.mth(found[:size]), 700, root, consistency_proof(nodes, size, 700))


@pytest.mark.parametrize("count", [0, 255, 256, 257, 65536 + 256 + 1])
def test_an_older_database_gets_the_tree_when_it_is_upgraded(tmp_path: Path, count: int) -> None:
    path = tmp_path / "runs.sqlite"
    old_database(path, "0009")
    digests = [secrets.token_hex(32) for _ in range(count)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO events VALUES (?, 'r', 1, 'StateChanged', 't', NULL, NULL, '', '', ?)",
            [(seq, f"sha256:{digest}") for seq, digest in enumerate(digests, 1)],
        )
    ensure_head(path)
    grown, nodes = Frontier().extended(map(bytes.fromhex, digests))
    rows = Reader(path).query("SELECT level, place, hash FROM tree_nodes ORDER BY 1, 2")[1]
    assert rows == sorted((node.level, node.place, tree.written(node.hash)) for node in nodes)
    with of(path) as connection:
        assert tree.frontier_of(connection) == grown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM events WHERE seq = 290", "has gaps"),
        ("DELETE FROM tree_nodes", "has gaps"),
        ("UPDATE events SET digest = 'sha256:xyz' WHERE seq = 290", "is damaged"),
        ("UPDATE tree_nodes SET hash = 'sha256:xyz'", "is damaged"),
    ],
)
def test_what_the_tree_lacks_is_said(database: Path, change: str, said: str) -> None:
    story.write(database, states(300))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(change)
    with of(database) as connection, pytest.raises(StoreError, match=f"the tree over the events {said}.*verify"):
        tree.frontier_of(connection)


def test_a_record_that_was_cut_off_goes_on_with_a_tree_of_what_is_left(database: Path, ask: Ask) -> None:
    story.write(database, states(300))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM events WHERE seq > 200")
    story.write(database, states(100))
    found = leaves(ask)
    with of(database) as connection:
        assert tree.frontier_of(connection).root == naive.mth(found)


def test_what_is_signed_is_the_tree_that_the_transaction_leaves(database: Path, ask: Ask) -> None:
    seen = []

    def sign(events: object, grown: Frontier) -> object:
        seen.append((grown.size, grown.root))
        return facts.head_signed(size=grown.size, root=tree.written(grown.root))

    with writing_engine(database).begin() as connection:
        rows = Rows(connection)
        batch = [(event, to_payload(event)) for event in story.started()]
        head, events = Appending(story.RUN, 1, sign).append(rows, Head(), batch)  # type: ignore[arg-type]
        assert [type(event).__name__ for event in events] == ["RunStarted", "ServerStarted", "HeadSigned"]
        assert head.tree.size == 3
        again, events = Appending(story.RUN, 1, signs_nothing).append(rows, head, [(states(1)[0], "{}")])
        assert (again.tree.size, len(events)) == (4, 1)
    assert seen == [(2, naive.mth(leaves(ask)[:2]))]
    assert ask("SELECT event_seq, run_id, process_id, size, root FROM heads") == [
        (3, story.RUN, 1, 2, tree.written(seen[0][1]))
    ]
