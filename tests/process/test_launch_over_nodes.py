"""A server that goes on with a run whose nodes are on a Ray cluster: they are told to stay before anything takes long,
and Ray is joined only where somebody answers for it."""

import inspect
import socket
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from flserver.errors import UsageError
from flserver.identity.roster import Member, Roster
from flserver.identity.rules import Identity
from flserver.process import launch as launching
from flserver.process.launched import Launched
from flserver.process.ray.nodes import RayNodes
from flserver.process.run import _nodes
from flserver.settings import server_settings
from flserver.store.database import Lock
from tests.listening import SETTINGS, listening
from tests.recorded_run import PLAIN, write_database


class Found:
    """``Staying``'s part; it and what comes after say in ``happened`` that they did."""

    has_port = False

    def __init__(self, happened: list[str], run_id: str) -> None:
        self._happened = happened
        happened.append(f"told to stay for {run_id}")

    def close(self) -> None:
        self._happened.append("told no more")


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a start does, in this order, where Ray is installed."""
    happened = list[str]()
    monkeypatch.setattr("flserver.cluster.ray.find_spec", lambda name: name)
    monkeypatch.setattr("flserver.process.names.require_room", lambda *_: happened.append("asked for room"))
    monkeypatch.setattr("flserver.process.ray.left.Staying", lambda settings, run_id: Found(happened, run_id))
    monkeypatch.setattr("flserver.process.soundness.check_record", lambda *_: happened.append("looked at the record"))
    taking = launching.plan_and_take

    def take(lock: Lock, plan_it: Any) -> Any:
        happened.append("has the run")
        return taking(lock, plan_it)

    monkeypatch.setattr(launching, "plan_and_take", take)
    return happened


def started(folder: Path, address: str, **more: object) -> int:
    """Start a server over nodes there, in a database with runs that can be resumed."""
    db = folder / "runs.sqlite"
    write_database(db)
    given: dict[str, Any] = {"db": db, "server_port": 0, "metrics_port": 0, "ingest": 1, "ray_address": address} | more
    return launching.launch(server_settings(given), given, (), lambda line: None)


def test_a_cluster_that_nobody_answers_for_is_said_at_once_and_not_joined(tmp_path: Path, happened: list[str]) -> None:
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"^--ray-address {address}: no cluster answers there .*refused.*$"):
            started(tmp_path, address, resume=True, run_name="plain")
    assert happened == ["has the run"]


def test_who_is_no_cluster_is_not_waited_for_as_one(tmp_path: Path, happened: list[str]) -> None:
    """Ray itself would try for a quarter of an hour."""
    with (
        listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address,
        pytest.raises(UsageError, match=rf"^--ray-address {address}: who listens there does not answer as"),
    ):
        started(tmp_path, address, resume=True, run_name="plain")
    assert happened == ["has the run"]


NEW = ["asked for room", "has the run", "looked at the record", "serves"]
RESUMED = [
    "has the run",
    f"told to stay for {PLAIN}",
    "looked at the record",
    "asked for room",
    "serves",
    "told no more",
]


@pytest.mark.parametrize(("resume", "expected"), [(True, RESUMED), (False, NEW)])
def test_nodes_are_told_to_stay_before_the_record_is_looked_at_and_handed_on_to_the_run(
    tmp_path: Path, happened: list[str], monkeypatch: pytest.MonkeyPatch, resume: bool, expected: list[str]
) -> None:
    left = list[object]()

    def serve(launched: Launched) -> int:
        left.append(launched.left)
        happened.append("serves")
        return 0

    monkeypatch.setattr("flserver.process.app.serve", serve)
    with listening(SETTINGS) as address:
        assert started(tmp_path, address, resume=resume, run_name="plain" if resume else "another") == 0
    assert happened == expected
    assert [type(found) for found in left] == [Found if resume else type(None)]


def test_nodes_that_were_told_to_stay_are_so_until_the_run_has_them() -> None:
    plan = SimpleNamespace(settings=server_settings({"ingest": 1, "ray_address": "10.0.0.1:6379"}), run_id="run")
    parts = {"basis": SimpleNamespace(code={"model": "sha256:0"}), "admission": SimpleNamespace(identity=Identity())}
    launched: Any = SimpleNamespace(
        plan=plan, listener=None, reader=mock.Mock(), say=mock.Mock(), left=object(), **parts
    )
    with mock.patch("flserver.process.ray.nodes.RayNodes", autospec=True) as made:
        _nodes(launched, mock.Mock(), mock.Mock())
    bound = inspect.signature(RayNodes.__init__).bind(None, *made.call_args.args)
    assert bound.arguments["staying"] is launched.left
    terms = bound.arguments["terms"]
    assert (terms.run_id, terms.code, terms.clients()) == ("run", {"model": "sha256:0"}, None)
    launched.admission.identity.roster = roster = Roster([Member(client_id="1")])  # as after SIGHUP
    assert terms.clients() is roster
