"""What a record answers, whichever program keeps it: one class of tests, run over each (``test_contract.py``)."""

from typing import Any

import pytest

from flserver import events as e
from flserver.errors import UsageError
from flserver.record.questions import answer, question
from flserver.settings.places import Place
from flserver.store.reader import AcceptedNorms, KnownClient, Reader
from flserver.store.snapshot import snapshot
from flserver.store.tree_reader import TreeReader
from flserver.store.writer import Writer
from tests import facts
from tests.store import story


class ReadingContract:
    """``place`` is a database at head, without a record; ``recorded`` one with a whole run and one that was left."""

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    @pytest.fixture
    def recorded(self) -> Place:
        raise NotImplementedError

    def test_runs_are_found_by_id_and_by_name(self, recorded: Place) -> None:
        reader = Reader(recorded)
        again = story.started("20260101-000000-000000", 3, "night")  # newer, whatever its id says
        story.write(recorded, again, process_id=3)
        assert [run["run_id"] for run in reader.runs()] == ["20260101-000000-000000", story.LEFT, story.RUN]
        assert reader.run("night")["run_id"] == "20260101-000000-000000"
        assert reader.run(story.RUN)["rounds_committed"] == 1
        for run, name in ((reader.newest_run(), "night"), (reader.newest_run("killed"), "killed")):
            assert run is not None
            assert run["name"] == name
        assert reader.newest_run("day") is None
        with pytest.raises(UsageError, match="no run 'day'"):
            reader.run("day")

    def test_a_run_is_also_the_newest_or_the_one_whose_id_begins_so(self, recorded: Place) -> None:
        reader = Reader(recorded)
        assert reader.run()["run_id"] == reader.run("newest")["run_id"] == story.LEFT
        assert reader.run(story.RUN[:8])["run_id"] == story.RUN
        for ref in ("newest", story.RUN[:8], ""):
            with pytest.raises(UsageError, match=f"no run '{ref}'"):
                reader.run(ref, exact=True)
        with pytest.raises(
            UsageError, match=rf"'2026' is how the ids of 2 runs begin: {story.LEFT} \(killed\), {story.RUN}"
        ):
            reader.run("2026")
        with pytest.raises(UsageError, match="no run ''"):
            reader.run("")

    def test_a_name_goes_before_the_beginning_of_an_id_and_before_newest(self, recorded: Place) -> None:
        reader = Reader(recorded)
        for run_id, name in (("r1", story.LEFT[:8]), ("r2", "newest"), ("r3", "other")):
            story.write(recorded, story.started(run_id, int(run_id[1]) + 5, name), process_id=int(run_id[1]) + 5)
        assert reader.run(story.LEFT[:8])["run_id"] == "r1"
        assert reader.run("newest")["run_id"] == "r2"
        assert reader.run()["run_id"] == "r3"

    def test_many_candidates_are_counted(self, recorded: Place) -> None:
        reader = Reader(recorded)
        for number in range(5, 12):
            story.write(recorded, story.started(f"x{number}", number, f"n{number}"), process_id=number)
        with pytest.raises(UsageError, match=r"of 7 runs begin: x11 .*, x7 \(n7\) and 2 more"):
            reader.run("x")

    def test_a_database_without_runs_says_so(self, place: Place) -> None:
        for ref in (None, "newest", "x"):
            with pytest.raises(UsageError, match="yet"):
                Reader(place).run(ref)

    def test_a_runs_columns_are_the_views(self, recorded: Place) -> None:
        reader = Reader(recorded)
        assert list(reader.run(story.RUN)) == reader.query("SELECT * FROM v1_runs")[0]

    def test_what_a_resume_needs(self, recorded: Place) -> None:
        reader = Reader(recorded)
        last = reader.last_committed(story.RUN)
        assert last is not None
        assert (last["round"], last["attempt"], last["model_digest"]) == (1, 2, "sha256:1")
        assert last["checkpoint"] == f"{story.RUN}/round-000001-00.safetensors"
        assert reader.last_committed("none") is None
        assert [row["round"] for row in reader.committed_rounds(story.RUN)] == [0, 1]
        assert [reader.next_attempt(story.RUN, number) for number in (0, 1, 2)] == [2, 3, 1]
        assert (reader.min_updates(story.RUN), reader.min_updates(story.LEFT), reader.min_updates("none")) == (
            2,
            None,
            None,
        )
        assert reader.participants(story.RUN) == [
            KnownClient(client_id="1", data_size=150, registration=2, took_part=True),
            KnownClient(client_id="2", data_size=100, registration=1, took_part=True),
            KnownClient(client_id="3", data_size=100, registration=1, took_part=True),
        ]
        assert sorted(reader.left_over_runs()) == sorted([story.RUN, story.LEFT])
        story.write(recorded, [facts.run_left_over(story.LEFT)], process_id=3)
        assert reader.left_over_runs() == [story.RUN]

    def test_how_far_accepted_updates_were_is_told_of_older_records_too(self, place: Place) -> None:
        reader = Reader(place)
        assert reader.accepted_norms(story.RUN) == AcceptedNorms(rounds=0, parameters=0.0, buffers=0.0)
        measured = {"update_norm": 5.0, "parameters_norm": 3.0, "buffers_norm": 4.0}
        rounds = [
            facts.attempt(1, clients=("1", "2")),
            facts.update(1, "1", **measured),
            facts.update(2, "2", **measured | {"parameters_norm": 9.0}),
            facts.suspect_rejected(2, "2"),
            facts.committed(1, outcomes=[facts.answered("1", 1, 1.0), facts.answered("2")]),
        ]
        sources = [*story.started(), *story.registered("1", 1), *story.registered("2", 2)]
        story.write(place, [*sources, *rounds])
        assert reader.accepted_norms(story.RUN) == AcceptedNorms(rounds=1, parameters=3.0, buffers=4.0)
        older = [
            facts.attempt(2, clients=("1",)),
            facts.update(3, "1", (2, 1), update_norm=3.5),
            facts.committed(2, outcomes=[facts.answered("1", 3, 1.0)]),
        ]
        story.write(place, older)
        assert reader.accepted_norms(story.RUN) == AcceptedNorms(rounds=2, parameters=3.5, buffers=4.0)
        assert reader.accepted_norms(story.RUN, 1) == AcceptedNorms(rounds=1, parameters=3.0, buffers=4.0)
        child = facts.run_started("child", "night", config={"resume_from": 1}, parent_run_id=story.RUN, parent_round=1)
        story.write(place, [child], run_id="child", process_id=2)
        assert reader.accepted_norms("child") == AcceptedNorms(rounds=1, parameters=3.0, buffers=4.0)
        other = facts.run_started("other", "night", config={}, parent_run_id=story.RUN, parent_round=1)
        story.write(place, [other], run_id="other", process_id=3)
        assert reader.accepted_norms("other").rounds == 0, "initial weights alone are no history"

    def test_who_left_before_a_join_window_closed_has_not_taken_part(self, recorded: Place) -> None:
        reader = Reader(recorded)
        run = "20260301-090000-abcdef"
        window = [*story.started(run, 4), *story.registered("visitor", 21), facts.left("visitor", connection_id=21)]
        window += [
            *story.registered("visitor", 22, 2),
            facts.left("visitor", "reset", registration=2, connection_id=22),
        ]
        window += [*story.registered("stays", 23), *story.registered("goes later", 24)]
        story.write(recorded, window, run_id=run, process_id=4)
        assert not any(client.took_part for client in reader.participants(run)), "the window is open"
        closed = [facts.quorum_settled(), facts.left("goes later", connection_id=24), *story.registered("late", 25)]
        closed += [facts.left("late", connection_id=25), facts.attempt(1, 1, ("stays",), not_sent=("owing",))]
        story.write(recorded, closed, run_id=run, process_id=4)
        found = {client.client_id: (client.registration, client.took_part) for client in reader.participants(run)}
        assert found == {"goes later": (1, True), "late": (1, False), "stays": (1, True), "visitor": (2, False)}
        story.write(recorded, [facts.quorum_settled(), facts.run_ended()], run_id=run, process_id=4)
        assert not reader.participants(run)[1].took_part, "a later window closed without it"

    def test_totals(self, recorded: Place) -> None:
        reader = Reader(recorded)
        totals = reader.totals(story.RUN)
        assert totals.rounds == {"committed": 2, "aborted": 1}
        assert totals.connections == {"register": 1 + 7, "upload": 6, "unknown": 1 + 7}
        assert totals.messages == {
            ("in", "<MODEL>", "ok"): 6,
            ("in", r"<\ud800>", "refused"): 1,
            ("out", "<MODEL>", "ok"): 5,
            ("in", "<METADATA>", "refused"): 6,
            ("out", "<ERROR>", "ok"): 4,
            ("out", "<ERROR>", "failed"): 1,
        }
        models = {("in", "<MODEL>"): 6048, ("in", r"<\ud800>"): 8, ("out", "<MODEL>"): 5040}
        assert totals.message_bytes == models | {("in", "<METADATA>"): 360, ("out", "<ERROR>"): 320}
        assert totals.updates == {"accepted": 2, "late": 1, "duplicate": 1, "rejected": 1, "aborted": 1}
        assert totals.rejected == {"shape: fc1.weight is (1,)": 1}
        assert totals.dropouts == {"reset": 1}
        assert totals.rejoins == 1
        assert Reader(recorded).totals(story.LEFT).updates == {}  # its one update has no decision yet
        assert totals.events == len(story.whole_run())
        assert sorted(totals.round_seconds) == [2.0, 4.0, 4.0]
        assert {phase: sorted(seconds) for phase, seconds in totals.phase_seconds.items()} == {
            "broadcast": [0.5, 0.5, 0.5],
            "wait": [1.5, 3.0, 3.0],
            "aggregate": [0.25, 0.25],
            "evaluate": [],
            "checkpoint": [0.125, 0.125],
        }
        assert list(totals.client_seconds) == [3.0] * 4
        assert list(totals.checkpoint_seconds) == [0.125] * 2

    def test_a_reader_works_while_the_server_writes(self, place: Place) -> None:
        writer = Writer(place, run_id=story.RUN, process_id=1)
        writer.start(**story.QUIET)
        reader = Reader(place)
        for number, event in enumerate(story.whole_run(), 1):
            writer.emit(event)
            writer.flush()
            assert reader.query("SELECT MAX(seq) FROM v1_events")[1] == [(number,)]
        writer.close()

    def test_one_call_sees_one_state(self, place: Place) -> None:
        writer = Writer(place, run_id=story.RUN, process_id=1)
        writer.start(**story.QUIET)
        with Reader(place)._connect() as connection:
            count = "SELECT COUNT(*) FROM v1_events"
            assert connection.exec_driver_sql(count).scalar() == 0
            writer.emit(e.StateChanged(state="joining"))
            writer.flush()
            assert connection.exec_driver_sql(count).scalar() == 0
            assert Reader(place).query(count)[1] == [(1,)]
        writer.close()

    def test_a_snapshot_is_of_one_moment(self, recorded: Place) -> None:
        count = "SELECT COUNT(*) FROM v1_events"
        writer = Writer(recorded, run_id=story.LEFT, process_id=3)
        writer.start(**story.QUIET)
        with snapshot(recorded) as then:
            before = then.query(count)[1]
            writer.emit(facts.run_left_over(story.LEFT))
            writer.flush()
            assert then.query(count)[1] == before
            assert then.run(story.LEFT)["status"] == "running"
            assert Reader(recorded).run(story.LEFT)["status"] == "interrupted"
        writer.close()

    def test_values_have_the_same_types_everywhere(self, recorded: Place) -> None:
        sql = """
            SELECT
                round = 1 AS truth, SUM(round = 1) AS truths, SUM(clients) AS added, AVG(clients) AS mean,
                MAX(loss) AS loss, NULL AS none, COUNT(*) AS n, ROUND(AVG(seconds), 1) AS rounded, 'x' || round AS word
            FROM v1_rounds WHERE run_id = :run AND status = 'committed' GROUP BY round ORDER BY round"""
        columns, rows = Reader(recorded).query(sql, {"run": story.RUN})
        assert columns == ["truth", "truths", "added", "mean", "loss", "none", "n", "rounded", "word"]
        assert typed(rows) == typed([(0, 0, 0, 0.0, 2.3, None, 1, 4.0, "x0"), (1, 1, 2, 2.0, 0.5, None, 1, 4.0, "x1")])

    def test_what_stands_in_json_is_what_it_is_there(self, place: Place) -> None:
        config = {"a": 1, "b": 2.0, "c": True, "d": None, "e": "x", "f": [1, {"y": "z"}], "g": "\0 \ud800 \U0001f600"}
        story.write(place, [facts.run_started(story.RUN, "night", config=config)])
        reader = Reader(place)
        each = "SELECT key, value, type FROM v1_runs, json_each(config) WHERE key <> 'g' ORDER BY key"
        assert typed(reader.query(each)[1]) == typed(
            [
                ("a", 1, "integer"),
                ("b", 2.0, "real"),
                ("c", 1, "true"),
                ("d", None, "null"),
                ("e", "x", "text"),
                ("f", '[1,{"y":"z"}]', "array"),
            ]
        )
        paths = ", ".join(f"json_extract(config, '$.{key}')" for key in "abcdef")
        assert typed(reader.query(f"SELECT {paths} FROM v1_runs")[1]) == typed(
            [(1, 2.0, 1, None, "x", '[1,{"y":"z"}]')]
        )
        texts = "SELECT config ->> 'e', config ->> '$.e', json_valid(config), json_valid('{') FROM v1_runs"
        assert typed(reader.query(texts)[1]) == typed([("x", "x", 1, 0)])
        ((odd,),) = reader.query("SELECT config ->> 'e' FROM v1_runs WHERE json_extract(config, '$.g') IS NOT NULL")[1]
        assert odd == "x"

    def test_a_number_in_json_has_one_text_and_half_a_character_one_escape(self, place: Place) -> None:
        numbers: dict[str, tuple[Any, str]] = {
            **{"a": (1e-05, "1.0e-05"), "b": (0.1 + 0.2, "0.3"), "c": (1e22, "1.0e+22"), "d": (1.7e18, "1.7e+18")},
            **{"e": (-0.0, "0.0"), "f": (5e-324, "4.94065645841247e-324"), "g": (1e15, "1.0e+15"), "h": (2.5, "2.5")},
            **{"i": (2**63 - 1, "9223372036854775807"), "j": (2**63, "9.22337203685478e+18"), "k": (-7, "-7")},
            **{"l": (12345678901234567890123, "1.23456789012346e+22"), "m": (1 / 3, "0.333333333333333")},
        }
        config = {key: number for key, (number, _) in numbers.items()}
        story.write(place, [facts.run_started(story.RUN, "night", config=config)])
        reader = Reader(place)
        atoms = "SELECT key, CAST(atom AS TEXT), type FROM v1_runs, json_each(config) ORDER BY key"
        assert reader.query(atoms)[1] == [
            (key, said, "integer" if isinstance(number, int) else "real") for key, (number, said) in numbers.items()
        ]
        half = [facts.run_started("half", "half", config={"a": "\ud800x", "b\udc00": "\U0001f600"})]
        story.write(place, half, run_id="half", process_id=2)
        found = answer(reader, question("settings"), "half", {})
        assert found.rows == [("a", "\\ud800x"), ("b\\udc00", "\U0001f600")]

    def test_who_knocked_as_often_and_as_late_is_in_one_order(self, place: Place) -> None:
        events = [*story.started()]
        at = "2026-01-31T09:00:00.000000Z"
        for number, (host, reason) in enumerate([("b", "y"), ("b", "x"), ("a", "y"), ("b", None)], 1):
            events.append(facts.opened(number, peer_host=host, at=at))
            if reason is not None:
                events.append(facts.closed(number, reason=reason, at=at))
        story.write(place, events)
        found = answer(Reader(place), question("who_knocked"), None, {})
        assert [row[:2] for row in found.rows] == [("a", "y"), ("b", None), ("b", "x"), ("b", "y")]

    def test_text_sorts_as_its_bytes(self, place: Place) -> None:
        story.write(place, [facts.run_started(name, name) for name in ("b", "a", "B", "é", "-", "z")])
        assert [row[0] for row in Reader(place).query("SELECT name FROM v1_runs ORDER BY name")[1]] == [
            *("-", "B", "a", "b", "z", "é")
        ]

    def test_a_parameter_may_be_anything(self, place: Place) -> None:
        story.write(place, story.started())
        reader = Reader(place)
        for value in ("it's", "back\\slash", "$1", "%s", "a:b", "é", ""):
            query = "SELECT :value AS said, ':value' AS kept FROM v1_runs -- :nothing\n WHERE name <> :value"
            assert reader.query(query, {"value": value, "more": 1}) == (["said", "kept"], [(value, ":value")])
        assert reader.query(
            "SELECT 1 FROM v1_runs WHERE :value IS NULL AND num_rounds > :least", {"value": None, "least": -1}
        )[1] == [(1,)]
        with pytest.raises(UsageError, match="You did not supply a value for binding"):
            reader.query("SELECT :missing FROM v1_runs")

    def test_what_cannot_be_kept_is_an_escape(self, place: Place) -> None:
        refused = facts.received(6, "<\ud800\0>", "refused", 8, connection_id=8, encoding="unknown", reason="a\0b")
        story.write(place, [*story.started(), facts.opened(8), refused])
        assert Reader(place).query("SELECT header, reason FROM v1_messages")[1] == [(r"<\ud800\x00>", r"a\x00b")]
        assert Reader(place).verify_chain().problems == ()

    def test_the_tree_and_its_heads(self, recorded: Place) -> None:
        reader = TreeReader(recorded)
        with reader.nodes() as nodes:
            size = nodes.size
        digests = [digest for page in reader.digests(7) for digest in page]
        assert len(digests) == size > 50
        assert [row["digest"] for row in map(reader.event_row, range(1, len(digests) + 1)) if row] == digests
        assert [head["event_seq"] for head in reader.heads()] == [4]
        seq = reader.event_of_update(4)
        assert seq is not None
        assert '"update_id":4' in str(reader.payload(seq))
        assert {row["type"] for row in reader.events_of_client("3", len(digests))} >= {"ClientRegistered"}
        of_round = [row["type"] for row in reader.events_of_run(story.RUN, len(digests), 1)]
        assert of_round.count("AttemptStarted") == 2
        assert "RoundCommitted" in of_round
        assert len(list(reader.events_of_run(story.RUN, len(digests)))) == len(story.whole_run())
        assert reader.purged() == 0

    def test_what_rests_on_a_round(self, place: Place) -> None:
        story.write(place, story.sound_run())
        child = [
            facts.run_started("child", "night", parent_run_id=story.RUN, parent_round=1),
            facts.attempt(0, 1),
            facts.committed(0),
        ]
        story.write(place, child, run_id="child", process_id=2)
        reader = Reader(place)
        assert [(row["run_id"], row["round"], row["by"]) for row in reader.resting_on(story.RUN, 0)] == [
            (story.RUN, 1, "the round before it"),
            ("child", 0, "what it begins with"),
        ]
        assert [(row["run_id"], row["by"]) for row in reader.resting_on_client("1")] == [
            (story.RUN, "an update in it"),
            ("child", "what it begins with"),
        ]


def typed(rows: list[tuple[Any, ...]]) -> list[list[tuple[str, Any]]]:
    """Each value with its type: 1, 1.0 and True are three."""
    return [[(type(value).__name__, value) for value in row] for row in rows]
