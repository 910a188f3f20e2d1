"""Who started, resumed, reloaded, stopped or upgraded, and why, is on record: as they say, or as the system knows."""

import getpass
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer

Join = Callable[..., list[Peer]]
ACTS = "SELECT kind, actor, reason FROM v1_operator_events WHERE kind <> 'override' ORDER BY at"
ME = getpass.getuser()


def test_who_starts_reloads_stops_and_resumes_is_on_record_with_the_reason(start: Start, tmp_path: Path) -> None:
    roster = tmp_path / "roster.csv"
    roster.write_text("id\na\nb\n")
    stale = tmp_path / "roster.csv.reason"
    stale.write_text("of an earlier reload")
    server = start("--clients", str(roster), "--actor", "Ada\x1b[2J", "--reason", "night shift", *FAST)
    server.wait_for_line("state: joining")

    def reloaded(times: int) -> None:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_sql("SELECT 1 FROM v1_operator_events WHERE kind = 'reload' LIMIT 1 OFFSET ?", times)

    reloaded(0)
    stale.write_text("actor: Grace\nsite b was given\na new certificate\n" + "x" * 5000)
    reloaded(1)
    reloaded(2)
    (tmp_path / "runs.sqlite.reason").write_text("the disk is replaced\n")
    assert server.terminate() == 3
    begun, first, second, third, stopped = server.sql(ACTS)
    assert begun == ("start", "Ada\\x1b[2J", "night shift")
    assert first == third == ("reload", ME, None), "a file says something once"
    assert second[:2] == ("reload", "Grace")
    assert second[2].startswith("site b was given a new certificate x")
    assert len(second[2]) <= 1000
    assert stopped == ("stop", ME, "the disk is replaced")
    ((detail,),) = server.sql("SELECT detail FROM v1_operator_events WHERE kind = 'stop'")
    told = json.loads(detail)
    assert (told["sender_pid"], told["sender_uid"]) == (os.getpid(), os.getuid())
    resumed = start("--resume", "--min-clients", "2", env={"FLSERVER_REASON": "back again"})
    resumed.wait_for_line("state: joining")
    assert resumed.terminate() == 3
    assert resumed.sql(ACTS)[5:] == [("resume", ME, "back again"), ("stop", ME, None)]
    (override,) = resumed.sql("SELECT DISTINCT actor, reason FROM v1_operator_events WHERE kind = 'override'")
    assert override == (ME, "back again")
