"""What is read for a report: what came of clients in rounds, what went wrong, what is withheld."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.events import LostUpdate
from flserver.report import participation, tables, troubles, words
from flserver.report.circumstances import WITHHELD, overrides, setting_cell
from flserver.report.circumstances import nodes as nodes_table
from flserver.report.facts import shown_setting
from flserver.report.participation import Picture, natural
from flserver.report.states import ABSENT, NUMBER, STATES, state_of
from flserver.store.lock import DatabaseLock
from flserver.store.schema import ensure_head
from tests import facts
from tests.report.conftest import HOSTILE, read
from tests.store import story


def by_key(states: Counter[int]) -> dict[str, int]:
    return {STATES[number].key: n for number, n in states.items()}


def test_a_cell_says_what_was_decided_and_else_what_came_of_the_invitation() -> None:
    assert state_of("answered", "accepted") == NUMBER["accepted"]
    assert state_of("timed_out", "late") == NUMBER["late"]
    assert state_of("answered", "rejected") == NUMBER["rejected"]
    assert state_of("dropped", None) == NUMBER["dropped"]
    assert state_of("not_sent", None) == NUMBER["not_sent"]
    assert state_of("cut_short", None) == state_of("answered", "aborted") == NUMBER["aborted"]
    assert state_of("answered", "lost") == NUMBER["lost"]
    assert state_of(None, None) == state_of("answered", None) == NUMBER["waiting"]


def test_no_two_states_look_alike_and_none_by_its_colour_alone() -> None:
    assert len({(state.top, state.height) for state in STATES}) == len(STATES)
    assert len({state.grave for state in STATES}) == len(STATES)


def test_ids_are_sorted_as_people_count() -> None:
    assert sorted(["b", "10", "2", "site10", "site9", "²", "9" * 30], key=natural)[:3] == ["2", "10", "9" * 30]
    assert sorted(["site10", "site9"], key=natural) == ["site9", "site10"]


def test_a_round_and_a_client_are_what_the_last_attempt_made_of_them(eventful: Path) -> None:
    found = read(eventful, "night").participation
    (made,) = found.rounds
    assert by_key(made.states) == {"accepted": 2, "not_sent": 1}, "attempt 2; attempt 1 was aborted"
    assert (made.slowest, made.median_seconds, made.heaviest, made.effective) == (("2", 3.0), 3.0, ("2", 0.5), 2.0)
    assert made.norms == (2.0,) * 5
    assert [(client.client_id, by_key(client.states)) for client in found.clients] == [
        ("1", {"accepted": 1}),
        ("2", {"accepted": 1}),
        ("3", {"not_sent": 1}),
    ]


def test_samples_that_were_counted_stand_beside_those_that_were_told(tmp_path: Path) -> None:
    """With ``--max-weight-share cap:…`` a client weighs less than it told."""
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    rounds = [facts.attempt(0), facts.committed(0), facts.attempt(1, 1, ("1", "2"))]
    rounds += [*story.uploaded(1, "1", (1, 1)), *story.uploaded(2, "2", (1, 1), counted_size=60)]
    used = [facts.answered("1", 1, 0.625), facts.answered("2", 2, 0.375)]
    registered = [*story.registered("1", 1), *story.registered("2", 2)]
    story.write(db, [*story.started(), *registered, *rounds, facts.committed(1, 1, used, data_size=160)])
    made = tables.weights_by_client(read(db, "night"))
    assert [label for label, _ in made.columns][1:3] == ["samples told", "counted samples"]
    assert [list(row)[:3] for row in made.rows] == [["1", "100", "100"], ["2", "100", "60"]]


def test_pages_of_rows_come_to_the_same_as_all_at_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(small, "many").participation
    monkeypatch.setattr(participation, "PAGE", 9)  # a round each
    paged = read(small, "many").participation
    assert paged.rounds == whole.rounds
    assert paged.clients == whole.clients
    assert whole.picture is not None
    assert paged.picture is not None
    assert (paged.picture.state == whole.picture.state).all()
    assert sum(made.states.total() for made in whole.rounds) == 8 * 12
    assert sum((client.states for client in whole.clients), Counter()) == sum(
        (made.states for made in whole.rounds), Counter()
    )


def test_a_column_of_several_rounds_shows_the_gravest_and_the_slowest() -> None:
    picture = Picture(["a"], 1, 5, 2)
    assert picture.columns == 3
    for round, key, seconds in ((1, "accepted", 2.0), (2, "dropped", None), (3, "accepted", 5.0), (4, "accepted", 4.0)):
        picture.put(0, round, NUMBER[key], seconds)
    assert picture.state.tolist() == [[NUMBER["dropped"], NUMBER["accepted"], ABSENT]]
    assert picture.seconds[0, :2].tolist() == [2.0, 5.0]
    assert math.isnan(picture.seconds[0, 2])


def test_what_went_wrong_is_said_and_how_often(eventful: Path) -> None:
    said = troubles.lines(read(eventful, "night"))
    assert "1 attempt was aborted (too few updates): of round 1." in said
    assert "1 update was rejected: it could not be used." in said
    assert "1 update was late: its attempt was over." in said
    assert "1 update was a duplicate: it answered nothing." in said
    assert "1 registration ended in a drop-out (1 × the connection was reset)." in said
    assert "1 message was refused." in said
    assert "14 connections of strangers came to nothing, beyond those with rows of their own." in said
    assert "1 ingest node was gone before the end: node-2." in said
    assert len(said) == 9


def test_where_nothing_went_wrong_nothing_is_said(recorded_night: Path) -> None:
    facts = read(recorded_night, "night")
    assert troubles.lines(facts) == []
    first, whom, good = words.summary(facts)
    assert "It is complete: 3 of 2 rounds are committed." in first
    assert whom == "No client was ever invited to a round."
    assert "The best one is that of round 2, with an accuracy of 95.0% and a loss of 0.4." in good


def test_a_run_that_is_not_over_is_told_as_it_is_now(eventful: Path) -> None:
    facts = read(eventful, "killed")
    assert facts.run["status"] == "running"
    assert words.unknown(facts)[0].startswith(f"How it ends: the run was not over at {facts.moment.at[:10]} ")
    assert words.unknown(facts)[0].endswith("and attempt 1 of round 1 was still open.")
    assert by_key(facts.participation.rounds[0].states) == {"waiting": 2}


def test_a_run_whose_server_was_killed_is_told_so_from_the_lock(eventful: Path, tmp_path: Path) -> None:
    db = Path(shutil.copy(eventful, tmp_path / "night runs.sqlite"))

    def told() -> tuple[str, str, list[str]]:
        facts = read(db, "killed")
        return facts.status, words.summary(facts)[0], troubles.lines(facts)

    resume = f"flserver --db 'PATH/TO/night runs.sqlite' --resume --run-name {story.LEFT}"
    ended = "1 server process had no orderly end (killed, or a power cut)."
    status, summary, said = told()
    assert status == "running (no server has it)"
    assert "It is not over, and no server has it as far as this copy tells: 0 of 2 rounds are committed." in summary
    assert said[0].startswith("As far as this copy tells, no server has it: ")
    assert said[0].endswith(resume)
    assert ended not in said
    with DatabaseLock(db):
        status, summary, said = told()
    assert status == "running"
    assert "It is not over: 0 of 2 rounds are committed." in summary
    assert "; the last event on record is of " in summary
    assert said == []
    status, summary, said = told()
    assert status == "running (no server has it)"
    assert "It is not over, and no server has it: it was killed, or lost its power: 0 of 2" in summary
    assert said == [f"No server has it: it was killed, or lost its power. Resume it with {resume}", ended]


def test_what_is_not_known_is_said(eventful: Path) -> None:
    said = " ".join(words.unknown(read(eventful, "night")))
    assert "4 of 4 registrations had no certificate" in said
    assert "its heads are not signed" in said
    assert "The models of 1 round: their checkpoints were deleted" in said
    assert "are left out here" in said
    assert "are left out here" not in " ".join(words.unknown(read(eventful, "night", personal=True)))


def test_reasons_in_free_text_addresses_and_info_are_read_only_if_asked_for(hostile: Path) -> None:
    plain, personal = read(hostile, HOSTILE), read(hostile, HOSTILE, personal=True)
    assert [row["reason"] for row in plain.updates if row["decision"] == "rejected"] == ["shape"]
    assert [row["reason"] for row in plain.messages] == [None]
    assert plain.people == ()
    assert personal.people[0]["info"] != "{}"
    assert [row["reason"][:7] for row in personal.updates if row["decision"] == "rejected"] == ["shape: "]


def test_settings_that_hold_addresses_are_withheld_and_paths_are_names() -> None:
    assert shown_setting("host", "192.0.2.7", personal=False) is None
    assert shown_setting("trusted_proxy", "192.0.2.0/24", personal=False) is None
    assert shown_setting("host", "192.0.2.7", personal=True) == "192.0.2.7"
    assert shown_setting("tls_cert", "/home/ada/certs/server.crt", personal=False) == "server.crt"
    assert shown_setting("initial_weights", "/home/ada/begin.safetensors", personal=False) == "begin.safetensors"
    assert shown_setting("roster", "/home/ada/roster.csv", personal=False) is None, "of a setting not known here"
    assert shown_setting("roster", "/home/ada/roster.csv", personal=True) == "/home/ada/roster.csv"
    assert shown_setting("reason", "who knows", personal=False) is None
    assert shown_setting("use_cuda", None, personal=False) == "—"
    assert shown_setting("rejoin", False, personal=False) == "false"


def test_what_a_resumption_gave_anew_is_a_row(eventful: Path) -> None:
    facts = read(eventful, "night")
    detail = json.dumps({"before": "127.0.0.1", "now": "192.0.2.7", "setting": "host"})
    act = {**facts.acts[0], "kind": "override", "detail": detail}
    (made,) = overrides(replace(facts, acts=[act]))
    assert [row[2:] for row in made.rows] == [["--host", WITHHELD, WITHHELD]]
    assert setting_cell(replace(facts, personal=True), "host", "192.0.2.7") == "192.0.2.7"


def test_what_is_no_setting_and_changed_on_a_resumption_is_called_what_it_is(eventful: Path) -> None:
    facts = read(eventful, "night")
    whats = ("num_rounds", "libraries.torch", "cpu", "code.flserver", "code.evaluate", "arithmetic", "code.", "codes")
    acts = [
        {**facts.acts[0], "kind": "override", "detail": json.dumps({"before": None, "now": "new", "setting": what})}
        for what in whats
    ]
    settings, made_of = overrides(replace(facts, acts=acts))
    assert [row[2] for row in settings.rows] == ["--num-rounds", "--code.", "--codes"]
    assert [row[2:] for row in made_of.rows] == [
        [what, "—", "new"]
        for what in ("library torch", "CPU", "sources of flserver", "sources of --evaluate", "arithmetic of the mean")
    ]
    assert overrides(replace(facts, acts=[])) == []


def test_an_unknown_run_and_a_missing_database(eventful: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no run 'day'"):
        read(eventful, "day")
    with pytest.raises(UsageError, match="there is no database"):
        read(tmp_path / "none.sqlite", "night")


def test_an_update_that_went_with_its_node_is_lost_wherever_it_is_told_of(tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    rounds = [facts.attempt(0), facts.committed(0), facts.attempt(1, 1, ("1", "2"))]
    rounds += [*story.uploaded(1, "1", (1, 1)), *story.uploaded(2, "2", (1, 1))]
    lost = facts.node_lost(updates=(LostUpdate(update_id=2, client_id="2", round=1, attempt=1),))
    ends = facts.committed(1, 1, [facts.answered("1", 1, 1.0), facts.answered("2")])
    left = facts.left(client_id="2", connection_id=2, reason="node")
    registered = [*story.registered("1", 1), *story.registered("2", 2)]
    story.write(db, [*story.started(), *registered, *rounds, lost, left, ends])
    told = read(db, "night")
    (made,) = told.participation.rounds
    assert by_key(made.states) == {"accepted": 1, "lost": 1}
    assert [list(row)[:3] for row in troubles.decisions_table(told).rows] == [
        ["accepted", "—", "1"],
        ["lost", "its ingest node is gone", "1"],
    ]
    personal = read(db, "night", personal=True)
    assert troubles.decisions_table(personal).rows[1][1] == "node-1 is gone: its process ended"
    said = troubles.lines(told)
    assert "1 update was lost with the ingest node that had it." in said
    assert "1 registration ended in a drop-out (1 × the ingest node that served the client was gone)." in said


def test_a_node_that_went_is_named_and_so_are_the_attempts_that_missed_their_quorum_then(tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    rounds = [facts.attempt(0), facts.committed(0), facts.attempt(1, 1, ("1", "2"))]
    rounds += [*story.uploaded(1, "1", (1, 1)), *story.uploaded(2, "2", (1, 1))]
    lost = LostUpdate(update_id=2, client_id="2", round=1, attempt=1)
    gone = facts.node_lost(node="node-2", slot=2, reason="no answer from 10.0.0.2", updates=(lost,))
    missed = facts.aborted(1, 1, [facts.answered("1", 1), facts.answered("2")])
    again = [facts.attempt(1, 2, ("1", "2")), facts.aborted(1, 2, [facts.silent("1"), facts.silent("2")])]
    nodes = [facts.node_started(1), facts.node_started(2)]
    story.write(db, [*story.started(), *nodes, *rounds, gone, missed, facts.node_started(3, 2), *again])
    told = read(db, "night")
    said = troubles.lines(told)
    assert "1 ingest node was gone before the end: node-2." in said
    assert (
        "Nodes went during 1 attempt that had too few updates then, of round 1: what they had was missing, and "
        "trainers may not be to blame."
    ) in said, "not during the second attempt"
    assert "It took 1 server process and 3 ingest nodes." in words.summary(told)[1]
    table = nodes_table(told)
    assert [column for column, _ in table.columns][:4] == ["node", "from", "to", "its end"]
    assert [(row[0], row[3]) for row in table.rows] == [("node-1", "—"), ("node-2", "gone"), ("node-3", "—")]
    assert "10.0.0.2" not in str(table.rows), "where it was is for those who may see it"
    (_, row, _) = nodes_table(read(db, "night", personal=True)).rows
    assert list(row[:2]) == ["node-2", "fl-b, 4244, 10.0.0.2:50052"]
    assert row[4] == "gone: no answer from 10.0.0.2"


def test_an_attempt_that_is_on_record_before_the_node_that_cost_it_is_counted(tmp_path: Path) -> None:
    """A node's connections are given up at once, which may end the attempt; that it is gone is on record behind that.
    Who left of itself costs no node anything, nor does a node that goes without one of the attempt's clients."""
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    registered = [*story.registered("1", 1), *story.registered("2", 2), *story.registered("3", 3)]
    rounds = [facts.attempt(0), facts.committed(0), facts.attempt(1, 1, ("1", "2"), not_sent=("3",))]
    rounds += [facts.aborted(1, 1, [facts.silent("1"), facts.silent("2", "dropped"), facts.silent("3", "not_sent")])]
    went = [facts.node_lost(node="node-1", updates=()), facts.left("2", "node", connection_id=2)]
    rounds += [*went, *story.registered("2", 4, 2), facts.attempt(1, 2, ("1", "2"), not_sent=("3",))]
    gone = facts.node_lost(node="node-2", slot=2, updates=())
    rounds += [facts.left("1", "reset"), gone, facts.left("3", "node", connection_id=3)]
    rounds += [facts.aborted(1, 2, [facts.silent("1", "dropped"), facts.silent("2"), facts.silent("3", "not_sent")])]
    rounds += [*story.registered("1", 5, 2), facts.left("1", "node", connection_id=5, registration=2)]
    story.write(db, [*story.started(), facts.node_started(1), facts.node_started(2), *registered, *rounds])
    told = read(db, "night")
    assert told.cost_by_nodes == [1]
    assert any(line.startswith("Nodes went during 1 attempt that had") for line in troubles.lines(told))


def test_a_run_without_nodes_says_nothing_of_any(tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    story.write(db, story.ROUND_1)
    told = read(db, "night")
    assert not nodes_table(told).rows
    assert "node" not in " ".join(troubles.lines(told))
