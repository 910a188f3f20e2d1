"""A site's witness over real HTTP: it follows a server through kill and resume, and finds a past that was rewritten."""

import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from flserver.audit.heads import check
from flserver.errors import NoHead
from flserver.heads.keys import PrivateKey, cosigned_at, opened
from flserver.heads.note import WITNESS
from flserver.store.chain import Link
from flserver.store.tree_reader import TreeReader
from flserver.witness.keeping import Memory
from flserver.witness.watch import Seen, fetcher, look
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess
from tests.patience import PATIENCE, eventually

Join = Callable[..., list[Peer]]
LOG, SITE = PrivateKey.generate("log.example/a"), PrivateKey.generate("site", WITNESS)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, ...]:
    """The options of a server that signs."""
    LOG.write(tmp_path / "key")
    SITE.write(tmp_path / "own")
    return ("--sign-key", "key")


def flserver(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flserver", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)


def shows_a_head(server: ServerProcess) -> bool:
    with suppress(NoHead):
        return bool(fetcher(f"http://127.0.0.1:{server.metrics_port}")(None))
    return False


def witnessed(server: ServerProcess, memory: Memory) -> int:
    """How many events the head has that a site's witness cosigned just now."""
    fetch = fetcher(f"http://127.0.0.1:{server.metrics_port}")

    def newer() -> Seen | None:
        with suppress(NoHead):  # heads are shown a moment after they are durable
            return look(fetch, LOG.public, SITE, memory, time.time)
        return None

    seen = eventually(newer, lambda: f"no new head\n{server.log}", pause=0.5)
    assert cosigned_at(seen.cosigned, SITE.public)
    return opened(seen.cosigned, LOG.public).size


def test_a_witness_follows_a_server_and_finds_a_rewritten_past(
    start: Start, join: Join, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    server = start("--num-rounds", "9", "--min-updates", "2", "--min-clients", "2", "--stop-grace", "0.2", *keys, *FAST)
    server.wait_for_line("round 0/9 committed")
    memory = Memory(tmp_path / "state")
    with memory.held():
        sizes = [witnessed(server, memory)]
    peers = join(server, "a", "b")
    for number in (1, 2):
        for peer in peers:
            peer.answer(0.5)
        server.wait_for_sql("SELECT 1 FROM v1_rounds WHERE round = ? AND status = 'committed'", number)
        sizes.append(witnessed(server, memory))
    server.kill()
    server = start("--resume")
    server.wait_for_line("state: joining")
    sizes.append(witnessed(server, memory))
    assert sizes == sorted(set(sizes)), "each extends the one before, after the kill too"
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/checkpoint", timeout=PATIENCE) as answer:
        assert server.sql("SELECT note FROM v1_heads ORDER BY size DESC")[0] == (answer.read().decode(),)
    counted = "flserver_audit_events_total"
    eventually(lambda: server.metrics()[counted] == server.sql("SELECT COUNT(*) FROM v1_events")[0][0])
    assert server.terminate() == 3
    rounds = server.sql("SELECT event_seq FROM v1_rounds WHERE status = 'committed'")
    heads = server.sql("SELECT size FROM v1_heads ORDER BY size")
    assert all(any(size >= seq for (size,) in heads) for (seq,) in rounds)
    ((last,),) = server.sql("SELECT MAX(seq) FROM v1_events")
    assert heads[-1] == (last - 1,), "of all, down to the server's end"
    assert [good for good, _ in check(TreeReader(server.db))] == [True]

    # Somebody with the disk and the key changes one old event, and makes chain and tree agree with it.
    rewrite(server.db, seq=4)
    server.db.with_name(f"{server.db.name}.lock").unlink()  # it notes the head that was
    server = start("--resume")
    server.wait_for_line("state: joining")
    eventually(lambda: shows_a_head(server), pause=0.5)
    options = ("--log-key", LOG.public, "--key", "own", "--state", "state", "--once")
    found = flserver(tmp_path, "witness", "--url", f"http://127.0.0.1:{server.metrics_port}", *options)
    assert found.returncode == 1
    assert "log.example/a was rewritten: no proof that its" in found.stderr
    assert len(list((tmp_path / "state" / "refused").iterdir())) == 1
    assert server.terminate() == 3


def rewrite(db: Path, seq: int) -> None:
    """The events from ``seq`` on with other digests; a record of fewer than 256 has no nodes of the tree."""
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.row_factory = sqlite3.Row
        previous = None
        for row in connection.execute("SELECT * FROM events WHERE seq >= ? ORDER BY seq", (seq,)).fetchall():
            link = {name: row[name] for name in Link.__dataclass_fields__}
            link |= {"at": "2026-01-01T00:00:00.000000Z"} if previous is None else {"previous_digest": previous}
            previous = Link(**link).digest()
            values = (link["at"], link["previous_digest"], previous, row["seq"])
            connection.execute("UPDATE events SET at = ?, previous_digest = ?, digest = ? WHERE seq = ?", values)
        assert connection.execute("SELECT COUNT(*) FROM tree_nodes").fetchone()[0] == 0
