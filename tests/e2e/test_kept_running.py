"""A fleet of unchanged trainers that something keeps running goes through whatever happens to its server."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.compiled import compiled_before
from tests.e2e.conftest import Start
from tests.e2e.harness import TESTS, ServerProcess, free_port
from tests.e2e.relay import relaying
from tests.fldata import write_fldata
from tests.patience import PATIENCE

ROOT = TESTS.parent
IDS = (1, 2, 3)
ROUNDS = 12  # three of its servers make one each at least, and the fourth has to have one left
NEXT = """
from alembic import op
revision = "9999"
down_revision = "{head}"
def upgrade():
    op.execute("CREATE TABLE next_version (note TEXT)")
"""


@contextmanager
def fleet(folder: Path, port: int) -> Iterator[list[subprocess.Popen[str]]]:
    """The field's trainers under the loop of ``ops/trainers``, and nobody who looks after them."""
    data = write_fldata(folder / "FLdata", IDS, samples=50)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RESTART_SECONDS": "0.2"}
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="fl-")) + "/relay"  # a socket's has 107 bytes
        stack.enter_context(relaying(place, environment))
        loops = []
        for client in IDS:
            command = [sys.executable, "-S", str(TESTS / "e2e" / "relay.py"), place]
            command += [str(TESTS / "field_trainer.py"), "--client-id", str(client)]
            command += ["--server-port", str(port), "--data", str(data), "--upload-delay", "0.2"]
            log = stack.enter_context((folder / f"trainer-{client}.log").open("w"))
            loop = subprocess.Popen(
                [str(ROOT / "ops" / "trainers" / "keep-running"), *command],
                env=environment,
                stdout=log,
                stderr=log,
                text=True,
            )
            stack.callback(loop.wait)
            stack.callback(loop.terminate)
            loops.append(loop)
        yield loops


def next_version(folder: Path, head: str) -> dict[str, str]:
    """The environment of an flserver that is newer, with a schema that is newer."""
    for name in ("flserver", "flclient", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    init = folder / "flserver" / "__init__.py"
    before, after = init.read_text(), init.read_text().replace('__version__ = "', '__version__ = "9.')
    assert before != after
    init.write_text(after)
    (folder / "migrations" / "versions" / "9999_next.py").write_text(NEXT.format(head=head))
    compiled_before(folder / "cache", folder / "flserver")
    return {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}


def made_one(server: ServerProcess) -> None:
    """It has made one round, which takes all trainers, and as a rule not many more."""
    server.wait_for_line(rf"round [1-9]\d*/{ROUNDS} committed")


def test_it_survives_a_planned_stop_an_upgrade_and_a_kill_of_the_server(start: Start, tmp_path: Path) -> None:
    port = free_port()
    here = ("--server-port", str(port))
    options = ("--goodbye", "close", "--min-clients", "3", "--time-to-wait", "0.3")
    first = start("--num-rounds", str(ROUNDS), *here, *options)
    first.wait_for_line("listening for trainers")
    with fleet(tmp_path, port) as loops:
        made_one(first)
        assert first.terminate() == 3
        assert first.sql("SELECT DISTINCT status FROM v1_rounds") == [("committed",)], "what ran has ended"

        second = start("--resume", *here)
        made_one(second)
        second.process.send_signal(signal.SIGTERM)
        assert second.exit_code() == 3

        ((head,),) = second.sql("SELECT version_num FROM alembic_version")
        newer = next_version(tmp_path / "newer", head)
        third = start("--resume", *here, env=newer)
        made_one(third)
        third.kill()

        fourth = start("--resume", *here, env=newer)
        assert [loop.wait(PATIENCE) for loop in loops] == [0, 0, 0], "the run is over: they stay down by themselves"
        assert fourth.exit_code() == 0
    assert fourth.sql("SELECT status, rounds_committed FROM v1_runs") == [("completed", ROUNDS)]
    assert fourth.sql("SELECT COUNT(*) FROM next_version") == [(0,)]
    versions = [version for (version,) in fourth.sql("SELECT server_version FROM v1_processes ORDER BY process_id")]
    assert [version.startswith("9.") for version in versions] == [False, False, True, True]
    assert fourth.sql("SELECT exit_code FROM v1_processes ORDER BY process_id") == [(3,), (3,), (None,), (0,)]
    accepted = "SELECT round, updates_accepted FROM v1_rounds WHERE status = 'committed' AND round > 0 ORDER BY round"
    assert len(fourth.sql(accepted)) == ROUNDS
    assert all(updates >= 2 for _, updates in fourth.sql(accepted))
    registrations = fourth.sql("SELECT client_id, MAX(registration) FROM v1_clients GROUP BY 1 ORDER BY 1")
    assert [client for client, _ in registrations] == ["1", "2", "3"]
    assert all(count >= 4 for _, count in registrations), "each was started again after each end of its server"
