"""Which run a process works on: every line of the table that the README gives for ``--resume``."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from flserver.errors import UsageError
from flserver.process.names import check_names
from flserver.process.run import settled_quorum
from flserver.process.which_run import Complete, Plan, plan_run, says_min_clients
from flserver.settings import server_settings
from flserver.settings.recorded import config_of, settings_of
from flserver.store.reader import Reader
from tests.process.runs import FakeReader, decide, found, is_new, planned


def test_of_a_run_that_keeps_updates_those_of_fewer_rounds_can_be_kept() -> None:
    run = found("interrupted", keep_updates=True)
    plan = planned(run, resume=True, keep_updates_rounds=1)
    assert (plan.settings.store.keep_updates, plan.settings.store.keep_updates_rounds) == (True, 1)
    check_names(plan.settings, begun=True)
    plan = planned(found("interrupted"), resume=True, keep_updates_rounds=1)
    with pytest.raises(UsageError, match="--keep-updates-rounds 1 needs --keep-updates"):
        check_names(plan.settings, begun=True)


def test_a_run_that_had_nodes_on_a_cluster_goes_on_without() -> None:
    run = found("interrupted", ingest=2, ray_address="10.0.0.1:6379")
    ingest = planned(run, resume=True).settings.ingest
    assert (ingest.ingest, ingest.ray_address) == (2, "10.0.0.1:6379")
    for fewer in ({"ingest": 0}, {"ingest": 1}):
        ingest = planned(run, resume=True, ray_address="", **fewer).settings.ingest
        assert (ingest.ingest, ingest.ray_address) == (fewer["ingest"], None)


# --- new runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "completed"])
def test_without_resume_a_new_run_is_started_whatever_there_is(status: str) -> None:
    plan = planned(found(status), num_rounds=5)
    assert is_new(plan)
    assert plan.notice is None
    assert plan.settings.rounds.num_rounds == 5
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", plan.run_id)
    assert plan.name == plan.run_id, "a run without a name is called by its id"
    assert planned(run_name="day").name == "day"
    assert planned().run_id != planned().run_id


def test_a_name_that_a_run_has_already_is_said_to_be_anothers_too() -> None:
    plan = planned(found("interrupted", name="day"), run_name="day")
    assert is_new(plan)
    assert plan.notice is not None
    assert "there is a run of that name" in plan.notice


def test_no_run_is_begun_under_the_name_by_which_the_newest_is_meant() -> None:
    with pytest.raises(UsageError, match="--run-name newest: the commands mean the newest run by it"):
        decide(run_name="newest")
    assert planned(found("interrupted", name="newest"), run_name="newest", resume=True).run_id == "r1", "an old record"


def test_resume_without_a_run_starts_one_and_says_so() -> None:
    plan = planned(resume=True)
    assert is_new(plan)
    assert plan.notice is not None
    assert "there is no run in runs.sqlite" in plan.notice
    other = planned(found("interrupted"), resume=True, run_name="monday")
    assert is_new(other)
    assert other.name == "monday"
    assert other.notice is not None
    assert "no run named monday" in other.notice


# --- resume: not completed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
@pytest.mark.parametrize("name", [None, "night"])
def test_a_run_that_is_not_complete_goes_on_with_its_own_settings(status: str, name: str | None) -> None:
    before = found(status, num_rounds=12, min_clients=3, seed=7, round_timeout=9.0, checkpoint_dir="/models")
    plan = planned(before, resume=True, run_name=name)
    assert (plan.run_id, plan.name, plan.resumed, plan.overrides) == ("r1", "night", before, {})
    assert plan.settings.rounds.num_rounds == 12
    assert plan.settings.rounds.min_clients == 3
    assert plan.settings.rounds.round_timeout == 9.0
    assert plan.settings.model.seed == 7
    assert plan.settings.store.checkpoint_dir == Path("/models")


def test_what_differs_is_taken_and_named() -> None:
    before = found("interrupted", num_rounds=12, min_clients=3, round_timeout=9.0)
    plan = planned(before, resume=True, num_rounds=20, round_timeout=9.0, eval_data="digits")
    assert plan.overrides == {"num_rounds": 20, "eval_data": "digits"}
    assert plan.settings.rounds.num_rounds == 20
    assert plan.settings.rounds.min_clients == 3
    assert plan.settings.evaluation.eval_data == "digits"


def test_fewer_rounds_may_be_asked_for_while_it_is_not_complete() -> None:
    assert planned(found("interrupted", num_rounds=12), resume=True, num_rounds=4).overrides == {"num_rounds": 4}


def test_where_the_database_lies_is_this_processs_business() -> None:
    before = found("interrupted", db="old.sqlite", run_name="night")
    plan = planned(before, resume=True, db="moved/new.sqlite")
    assert plan.overrides == {}
    assert plan.settings.store.db == Path("moved/new.sqlite")
    assert plan.settings.store.checkpoint_dir == Path("moved/new.sqlite.checkpoints")
    assert plan.settings.store.resume


def test_how_it_logs_is_this_processs_business() -> None:
    before = found("interrupted", log_format="json", log_level="debug")
    plan = planned(before, resume=True, log_level="error")
    assert plan.overrides == {}
    assert (plan.settings.values["log_format"], plan.settings.values["log_level"]) == ("text", "error")
    recorded = json.loads(before["config"]) | {"log_format": "json", "log_level": "debug"}  # as it once was
    old = planned(before | {"config": json.dumps(recorded)}, resume=True, log_level="error")
    assert old.overrides == {}
    assert (old.settings.values["log_format"], old.settings.values["log_level"]) == ("text", "error")


def test_it_listens_where_it_was_started_unless_told_otherwise() -> None:
    before = found("interrupted", host="127.0.0.2", server_port=40787)
    same = planned(before, resume=True)
    assert (same.settings.network.host, same.settings.network.server_port, same.overrides) == ("127.0.0.2", 40787, {})
    moved = planned(before, resume=True, server_port=40788)
    assert (moved.settings.network.host, moved.settings.network.server_port) == ("127.0.0.2", 40788)
    assert moved.overrides == {"server_port": 40788}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "torchvision:resnet18"),
        ("strategy", "lab.fl:Median"),
        ("seed", 8),
        ("initial_weights", "weights.safetensors"),
    ],
)
def test_what_makes_another_run_of_it_is_refused(key: str, value: object) -> None:
    before = found("interrupted", seed=7)
    with pytest.raises(UsageError) as caught:
        decide(before, resume=True, **{key: value})
    assert f"--{key.replace('_', '-')} {value}: run night was started with" in str(caught.value)
    own = settings_of(before)[key]
    assert planned(before, resume=True, **{key: own}).overrides == {}, "the same value again is fine"


def test_a_setting_that_the_run_did_not_have_yet_gets_this_processs_value() -> None:
    before = found("interrupted")
    config = json.loads(before["config"])
    del config["metrics_linger"]
    plan = planned(before | {"config": json.dumps(config)}, resume=True, metrics_linger=4.0)
    assert plan.settings.network.metrics_linger == 4.0


def test_a_run_resumes_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = config_of(server_settings({"tls_cert": "server.crt"}))
    run = found("interrupted") | {"config": json.dumps(before)}
    assert planned(run, resume=True, tls_cert="server.crt").overrides == {}
    monkeypatch.chdir("/")
    assert planned(run, resume=True).settings.identity.tls_cert == tmp_path / "server.crt"
    assert planned(run, resume=True, tls_cert="server.crt").overrides == {"tls_cert": "/server.crt"}


def test_the_newest_run_or_the_newest_of_the_name() -> None:
    runs = (found("interrupted", "night", "r1"), found("interrupted", "night", "r2"), found("failed", "day", "r3"))
    assert planned(*runs, resume=True).run_id == "r3"
    assert planned(*runs, resume=True, run_name="night").run_id == "r2"


# --- resume: completed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "night"])
def test_a_larger_number_of_rounds_extends_a_complete_run(name: str | None) -> None:
    plan = planned(found("completed", num_rounds=5), resume=True, num_rounds=6, run_name=name)
    assert (plan.run_id, plan.overrides, plan.settings.rounds.num_rounds) == ("r1", {"num_rounds": 6}, 6)


@pytest.mark.parametrize("given", [{}, {"num_rounds": 5}, {"num_rounds": 4}])
def test_otherwise_a_complete_run_is_left_and_a_new_one_started(given: dict[str, Any]) -> None:
    plan = planned(found("completed", num_rounds=5), resume=True, **given)
    assert is_new(plan)
    assert plan.notice is not None
    assert "run night is complete with its 5 rounds; starting a new one" in plan.notice


def test_the_default_number_of_rounds_does_not_extend_a_run() -> None:
    reader = cast(Reader, FakeReader(found("completed", num_rounds=5)))
    settings = server_settings({"resume": True})
    assert settings.rounds.num_rounds > 5
    plan = plan_run(reader, settings, {"resume": True})
    assert isinstance(plan, Plan)
    assert is_new(plan)


@pytest.mark.parametrize("given", [{}, {"num_rounds": 5}, {"num_rounds": 4}])
def test_a_complete_run_that_was_asked_for_by_name_is_said_to_be_complete(given: dict[str, Any]) -> None:
    decision = decide(found("completed", num_rounds=5), resume=True, run_name="night", **given)
    assert isinstance(decision, Complete)
    assert "run night is complete with its 5 rounds" in decision.notice


def test_what_makes_another_run_of_a_complete_one_is_refused_too() -> None:
    with pytest.raises(UsageError, match="--model"):
        decide(found("completed", num_rounds=5), resume=True, run_name="night", model="torchvision:resnet18")


# --- resume from a round: a child ------------------------------------------------------------------------------------


def child(*runs: Mapping[str, Any], rounds: Mapping[int, Mapping[str, Any]] | None = None, **given: Any) -> Plan:
    """The plan of a process that begins a child; by default the runs have rounds 0 to 5 on disk."""
    reader = cast(Reader, FakeReader(*runs, rounds={n: {} for n in range(6)} if rounds is None else rounds))
    plan = plan_run(reader, server_settings(given), given)
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "completed"])
def test_a_child_is_a_new_run_with_its_parents_settings_and_its_rounds_less_those_before(status: str) -> None:
    before = found(status, num_rounds=12, min_clients=3, seed=7, server_port=40787, checkpoint_dir="/models")
    plan = child(before, resume_from=4)
    assert is_new(plan)
    assert plan.parent is not None
    assert (plan.parent.run, plan.parent.round) == (before, 4)
    assert plan.settings.rounds.num_rounds == 8
    assert (plan.settings.rounds.min_clients, plan.settings.model.seed) == (3, 7)
    assert plan.settings.network.server_port == 40787, "it listens where its parent did"
    assert plan.settings.store.checkpoint_dir == Path("/models")
    assert config_of(plan.settings)["resume_from"] == 4, "a run says where it began"


def test_a_child_has_its_parents_name_and_is_gone_on_with_by_its_own_id() -> None:
    plan = child(found("interrupted"), resume_from=4)
    assert (plan.name, plan.ref) == ("night", plan.run_id)
    nameless = child(found("interrupted", "r1", "r1"), resume_from=4)
    assert nameless.name == nameless.ref == nameless.run_id, "an id is no name that goes over"


def test_a_child_is_of_the_newest_run_or_of_the_one_that_is_meant() -> None:
    runs = (found("interrupted", "night", "r1"), found("interrupted", "night", "r2"), found("failed", "day", "r3"))
    for name, meant in ((None, "r3"), ("night", "r2"), ("r1", "r1")):
        parent = child(*runs, resume_from=4, run_name=name).parent
        assert parent is not None
        assert parent.run["run_id"] == meant


def test_what_differs_in_a_child_is_taken_and_named_and_another_strategy_may_be_tried() -> None:
    before = found("interrupted", num_rounds=12, min_clients=3, strategy="lab.fl:Median")
    plan = child(before, resume_from=4, num_rounds=20, min_clients=2, strategy="fedavg")
    assert plan.overrides == {"num_rounds": 20, "min_clients": 2, "strategy": "fedavg"}
    assert (plan.before["num_rounds"], plan.settings.rounds.num_rounds) == (8, 20)
    assert child(before, resume_from=4, num_rounds=8).overrides == {}


@pytest.mark.parametrize("changed", [{"model": "torchvision:resnet18"}, {"seed": 8}, {"initial_weights": "w.pt"}])
def test_what_a_child_cannot_begin_with_at_its_parents_round_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"leave --resume-from out to start a new run"):
        child(found("interrupted", seed=7), resume_from=4, **changed)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"resume_from": 6}, "run night has no committed round 6; the last one is 5"),
        (
            {"resume_from": 2},
            "run night has no checkpoint of round 2 any more: it was pruned at noon. .* rounds 0, 3, 5",
        ),
        ({"resume_from": 3, "resume": True}, "--resume-from 3 starts a new run, --resume goes on with one"),
        ({"resume_from": 3, "run_name": "nihgt"}, "no run named nihgt in runs.sqlite; did you mean 'night'"),
        ({"resume_from": 5}, "run night has no round after it. Say with --num-rounds"),
    ],
)
def test_a_round_at_which_no_child_can_begin(given: dict[str, Any], reason: str) -> None:
    gone = {"checkpoint_deleted_at": "noon"}
    rounds: dict[int, Mapping[str, Any]] = {0: {}, 1: gone, 2: gone, 3: {}, 4: gone, 5: {}}
    with pytest.raises(UsageError, match=reason):
        child(found("interrupted", num_rounds=5), rounds=rounds, **given)


def test_without_any_run_there_is_no_child() -> None:
    with pytest.raises(UsageError, match=r"--resume-from 0: there is no run in runs\.sqlite$"):
        child(resume_from=0)


def test_a_child_goes_on_by_its_parents_name_and_its_parent_by_its_id() -> None:
    parent = found("interrupted", num_rounds=12)
    own = found("interrupted", run_id="r2", num_rounds=8, resume_from=4) | {"parent_run_id": "r1", "parent_round": 4}
    for name in (None, "night", "r2"):
        plan = planned(parent, own, resume=True, run_name=name)
        assert (plan.run_id, plan.ref, plan.settings.rounds.num_rounds, plan.overrides) == ("r2", "r2", 8, {})
        assert plan.parent is not None
        assert (plan.parent.run, plan.parent.round) == (parent, 4)
    older = planned(parent, own, resume=True, run_name="r1")
    assert (older.run_id, older.ref, older.parent) == ("r1", "r1", None), "its name means its child now"
    assert planned(parent, resume=True).ref == "night"


def test_a_child_of_a_child_begins_at_a_round_of_that() -> None:
    own = found("interrupted", run_id="r2", num_rounds=8, resume_from=4) | {"parent_run_id": "r1", "parent_round": 4}
    plan = child(found("interrupted", num_rounds=12), own, resume_from=2)
    assert plan.parent is not None
    assert (plan.parent.run["run_id"], plan.parent.round, plan.settings.rounds.num_rounds) == ("r2", 2, 6)
    assert plan.overrides == {}


@pytest.mark.parametrize(("own", "parents", "settled"), [(None, 2, 2), (None, 1, None), (1, 2, 1), (None, None, None)])
def test_a_childs_quorum_is_its_parents_where_more_than_one_site_made_that_ones_models(
    own: int | None, parents: int | None, settled: int | None
) -> None:
    plan = child(found("interrupted"), resume_from=4)
    quorums = {run: quorum for run, quorum in ((plan.run_id, own), ("r1", parents)) if quorum is not None}
    assert settled_quorum(plan, cast(Reader, FakeReader(quorums=quorums))) == settled


def test_how_many_clients_a_child_begins_with_was_said_of_its_parent() -> None:
    assert says_min_clients(child(found("interrupted", min_clients=3), resume_from=4), {"resume_from": 4})
    assert not says_min_clients(child(found("interrupted", min_clients=1), resume_from=4), {"resume_from": 4})
    assert says_min_clients(None, {"min_clients": 1})
    assert not says_min_clients(planned(), {})
