"""Evidence of a run that goes on: made while its server writes, and checked by plain Python with nothing else."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flserver.heads.keys import PrivateKey
from tests import warm
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, TESTS, Peer, ServerProcess
from tests.patience import PATIENCE
from tests.warm import Started

Join = Callable[..., list[Peer]]
LOG = PrivateKey.generate("log.example/live")


def asked(server: ServerProcess, out: Path) -> Started:
    """The command that makes a bundle of the newest run, begun."""
    command = ["-m", "flserver", "--db", str(server.db), "evidence", "newest", "--out", str(out), "--json"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return warm.start(command, cwd=TESTS.parent, env=os.environ, **pipes)


def told(process: Started) -> dict[str, Any]:
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    return dict(json.loads(said))


def checked(bundle: Path, *under: str) -> tuple[int, str]:
    """What the bundle's own verify.py says of it, away from flserver: exit code, and last line."""
    with zipfile.ZipFile(bundle) as zipped:
        zipped.extract("verify.py", bundle.parent / "site")
    command = [sys.executable, "-I", "verify.py", str(bundle), *under]
    done = subprocess.run(command, cwd=bundle.parent / "site", capture_output=True, text=True, env={}, timeout=PATIENCE)
    return done.returncode, (done.stdout + done.stderr).splitlines()[-1]


def test_a_bundle_made_while_the_server_writes_holds_as_of_its_head(start: Start, join: Join, tmp_path: Path) -> None:
    LOG.write(tmp_path / "key")
    options = ("--num-rounds", "100000", "--min-clients", "2", "--min-updates", "2", "--stop-grace", "0.2", *FAST)
    server = start("--sign-key", "key", *options)
    peers = join(server, "a", "b")

    def play() -> None:
        for peer in peers:
            peer.answer(0.5)

    play()
    server.wait_for_sql("SELECT 1 FROM v1_rounds WHERE round = 1 AND status = 'committed'")
    making, played = asked(server, tmp_path / "first.zip"), 1
    while making.poll() is None:
        play()
        played += 1
    first = told(making)
    assert 2 <= first["rounds"] <= played + 1, "round 0 and what was committed by then"
    play()
    server.wait_for_sql("SELECT 1 FROM v1_rounds WHERE round = ? AND status = 'committed'", played + 1)
    second = told(asked(server, tmp_path / "second.zip"))
    assert second["rounds"] == played + 2 > first["rounds"], "the run has gone on"
    assert server.process.poll() is None, "and goes on"
    ((run_id,),) = server.sql("SELECT run_id FROM v1_runs")
    for made in (first, second):
        newest = "SELECT seq, at FROM v1_events WHERE seq <= ? AND run_id = ? ORDER BY seq DESC LIMIT 1"
        ((seq, at),) = server.sql(newest, made["size"], run_id)
        for under in (("--key", str(LOG.public)), ("--head", made["head"])):
            code, last = checked(Path(made["file"]), *under)
            assert (code, last[:11]) == (0, "HOLDS under"), last
            assert last.endswith(f", AS OF event {seq} (`{at}`): what came after is NOT in it.")
    code, last = checked(tmp_path / "first.zip", "--head", second["head"])
    assert (code, "is of another size" in last) == (1, True), "a bundle that was cut is not one of the newest head"
    assert checked(tmp_path / "first.zip", "--key", str(PrivateKey.generate("log.example/live").public))[0] == 1
    assert server.terminate() == 3
