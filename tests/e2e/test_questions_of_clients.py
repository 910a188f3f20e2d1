"""Every question about clients and updates is answered with what the trainers of the eventful run did."""

import json
import math
from collections import Counter, defaultdict

import pytest

from tests import eventful_run as told
from tests.e2e.asked import ACCEPTED, Asked, weights
from tests.eventful_run import Facts


def bytes_in(facts: Facts, client: str) -> int:
    """What a client's uploads take, and its two registrations."""
    said = {"header": "<METADATA>", "id": int(client), "data_size": told.SIZES[client]}
    registration = 8 + len(json.dumps(said | {"info": {"site": told.LABELS[client]}}))
    return sum(upload.bytes for upload in facts.of(client=client)) + 2 * registration


def test_bytes_by_client_and_day(asked: Asked) -> None:
    received: Counter[str | None] = Counter()
    answered: Counter[str | None] = Counter()
    for row in asked.rows("bytes_by_client_and_day"):
        assert row["day"][:8] == told.now()[:8]
        received[row["client_id"]] += row["bytes_in"]
        answered[row["client_id"]] += row["messages_out"]
    assert {client: received[client] for client in "1234"} == {
        client: bytes_in(asked.facts, client) for client in "1234"
    }
    assert received[None] > asked.facts.cut_off_at, "what was cut off names nobody"
    # Models, the answers to two registrations, and <FINISHED> for whoever was there at the end.
    assert {client: answered[client] for client in "1234"} == {"1": 6 + 3, "2": 6 + 3, "3": 4 + 2, "4": 5 + 3}


def test_client_participation(asked: Asked) -> None:
    columns = ("client_id", "attempts", "answered", "dropped", "timed_out", "not_sent", "cut_short")
    columns += ("accepted", "rejected", "late", "registrations", "aborted", "lost")
    assert sorted(asked.column("client_participation", *columns)) == [
        ("1", 6, 6, 0, 0, 0, 0, 5, 0, 0, 2, 1, 0),
        ("2", 6, 5, 0, 0, 0, 1, 4, 1, 0, 2, 0, 0),
        ("3", 4, 2, 1, 0, 0, 1, 2, 0, 0, 2, 0, 0),
        ("4", 6, 3, 0, 1, 1, 1, 3, 0, 1, 2, 0, 0),
    ]


def test_data_sizes(asked: Asked) -> None:
    columns = ("client_id", "smallest", "largest", "smallest_counted", "largest_counted", "sizes_registered")
    assert asked.column("data_sizes", *columns) == [(c, *4 * [told.SIZES[c]], 1) for c in "4321"]
    assert dict(asked.column("data_sizes", "client_id", "updates")) == Counter(u.client for u in asked.facts.of())


def test_drop_outs(asked: Asked) -> None:
    (row,) = asked.rows("drop_outs")
    assert (row["client_id"], row["label"], row["registration"], row["left_reason"]) == ("3", "Oslo", 1, "closed")
    assert row["round"] == 3
    assert row["left_at"] < row["came_back_at"]


def test_reported_by_a_client(asked: Asked) -> None:
    columns = ("round", "measured_on", "name", "value", "server_value")
    reported = asked.column("reported_by_a_client", *columns, client_id=3)
    assert reported == [
        (0, "received", "loss", 1.5, told.LOSS[0]),
        (1, "received", "loss", 1.5, told.LOSS[1]),
        (1, "trained", "loss", 1.0, None),
        (2, "trained", "loss", 1.0, None),
    ]


def test_sent_by_a_client(asked: Asked) -> None:
    rows = asked.rows("sent_by_a_client", client_id="3")
    assert [row["header"] for row in rows] == ["<METADATA>", "<MODEL>", "<MODEL>", "<METADATA>"]
    uploads = [row for row in rows if row["header"] == "<MODEL>"]
    for row, upload in zip(uploads, asked.facts.of(client="3"), strict=True):
        began, ended = upload.between
        assert began <= row["at"] <= ended
        assert (row["round"], row["decision"], row["bytes"]) == (upload.round, upload.decision, upload.bytes)
        assert (row["message_digest"], row["update_digest"]) == (upload.message, upload.digest)
        assert row["peer_host"] == told.HOSTS["3"]


def test_unlike_the_others(asked: Asked) -> None:
    first, *others = asked.rows("unlike_the_others")
    assert (first["round"], first["client_id"]) == (3, "4")
    assert first["times_the_others"] == pytest.approx(told.FAR / told.STEP)
    measured = [u.norm for u in asked.facts.of() if u.decision in ("accepted", "aborted")]
    assert sorted(r["update_norm"] for r in (first, *others)) == pytest.approx(sorted(measured), rel=1e-5)
    assert all(row["times_the_others"] is None or row["times_the_others"] < 1.01 for row in others)
    later = [row["update_cosine"] for row in (first, *others) if row["round"] > 1]
    assert later == pytest.approx([1.0] * len(later)), "all go the same way, also after the resumption"
    assert {row["update_cosine"] for row in others if row["round"] == 1} == {None}


def test_updates_behind_a_model(asked: Asked) -> None:
    for round, clients in ACCEPTED.items():
        rows = asked.rows("updates_behind_a_model", digest=asked.digest(round))
        uploads = {u.client: u for u in asked.facts.of(round=round, decision="accepted")}
        assert [row["client_id"] for row in rows] == list(clients)
        assert {row["client_id"]: row["weight"] for row in rows} == pytest.approx(weights(round))
        for row in rows:
            upload = uploads[row["client_id"]]
            assert (row["update_digest"], row["message_digest"]) == (upload.digest, upload.message)
            assert row["base_digest"] == asked.digest(round - 1)
            assert row["peer_host"] == told.HOSTS[row["client_id"]]


def test_updates_not_counted(asked: Asked) -> None:
    rows = asked.column("updates_not_counted", "client_id", "round", "attempt", "decision", "update_digest")
    expected = [u for u in asked.facts.of() if u.decision != "accepted"]
    assert rows == [
        (u.client, *((None, None) if u.decision == "duplicate" else (u.round, u.attempt)), u.decision, u.digest)
        for u in expected
    ]
    assert [u.decision for u in expected] == ["duplicate", "rejected", "aborted", "late"]
    assert "NaN" in asked.column("updates_not_counted", "reason")[1]


def test_was_it_authenticated(asked: Asked) -> None:
    columns = ("client_id", "label", "registration", "identity", "transport", "peer_host")
    assert asked.column("was_it_authenticated", *columns, client_id=3) == [
        ("3", "Oslo", n, "claimed", "tcp", told.HOSTS["3"]) for n in (1, 2)
    ]
    pilot = asked.rows("was_it_authenticated", "pilot")
    assert [(r["client_id"], r["identity"], r["transport"]) for r in pilot] == [
        (client, "authenticated", "tls") for client in "12"
    ]
    assert all(row["certificate_fingerprint"] for row in pilot)
    assert len(asked.rows("was_it_authenticated")) == 8


def test_weight_share(asked: Asked) -> None:
    shares: dict[str, list[float]] = defaultdict(list)
    for round in ACCEPTED:
        for client, weight in weights(round).items():
            shares[client].append(weight)
    rows = {row["client_id"]: row for row in asked.rows("weight_share")}
    for client, each in shares.items():
        assert (rows[client]["rounds"], rows[client]["mean_share"]) == (len(each), pytest.approx(sum(each) / 5))
        assert rows[client]["largest_share"] == pytest.approx(max(each))
    assert rows["4"]["largest_update_norm"] == pytest.approx(told.FAR * math.sqrt(7850))


def test_what_was_refused(asked: Asked) -> None:
    found = Counter[tuple[str, str, str | None]]()
    for row in asked.rows("what_was_refused"):
        found[row["what"], row["peer_host"], row["client_id"]] += row["times"]
    assert found == {
        ("message refused", told.NETWORK, None): asked.facts.scanned,
        ("message refused", told.SCANNER, None): 1,
        ("message refused", told.IMPOSTOR, None): 3,
        ("message refused", told.HOSTS["2"], None): 1,
        ("message failed", told.HOSTS["2"], None): 1,
        ("update duplicate", told.HOSTS["1"], "1"): 1,
        ("update rejected", told.HOSTS["2"], "2"): 1,
        ("update late", told.HOSTS["4"], "4"): 1,
    }


def test_which_client_slows(asked: Asked) -> None:
    rows = {row["client_id"]: row for row in asked.rows("which_client_slows")}
    assert max(rows, key=lambda c: rows[c]["longest_training_seconds"]) == "3"
    assert max(rows, key=lambda c: rows[c]["longest_transfer_seconds"]) == "4"
    assert {client: row["times_last"] for client, row in rows.items()} == {"1": 0, "2": 2, "3": 0, "4": 3}
    assert (rows["3"]["mostly"], rows["1"]["waited_for_seconds"]) == ("training", 0)


def test_who_knocked(asked: Asked) -> None:
    found = Counter[str]()
    for row in asked.rows("who_knocked"):
        found[row["whence"]] += row["connections"]
    assert found == {told.NETWORK: asked.facts.scanned, told.SCANNER: 2, told.IMPOSTOR: 4, told.HOSTS["2"]: 2}


def test_who_slowed_a_round(asked: Asked) -> None:
    rows = asked.rows("who_slowed_a_round", round=1)
    assert [row["client_id"] for row in rows][:2] == ["4", "3"]
    by_client = {row["client_id"]: row for row in rows}
    assert max(by_client, key=lambda c: by_client[c]["wait_seconds"]) == "3"
    assert max(by_client, key=lambda c: by_client[c]["upload_seconds"]) == "4"
    assert asked.column("who_slowed_a_round", "client_id", "participation", round=3)[0] == ("3", "dropped")
    last = asked.rows("who_slowed_a_round")
    assert (last[0]["client_id"], last[0]["participation"]) == ("4", "not_sent")
    assert {row["round"] for row in last} == {row["round"] for row in asked.rows("who_took_part")} == {max(ACCEPTED)}
    assert {row["round"] for row in rows} == {1}


def test_who_took_part(asked: Asked) -> None:
    for round in ACCEPTED:
        rows = [row for row in asked.rows("who_took_part", round=round) if row["decision"] == "accepted"]
        assert {row["client_id"]: row["weight"] for row in rows} == pytest.approx(weights(round))
        assert all(row["label"] == told.LABELS[row["client_id"]] for row in rows)
    assert asked.column("who_took_part", "client_id", "decision", round="2")[-1] == ("2", "rejected")


def test_who_was_silent(asked: Asked) -> None:
    stopped = "server stopped"
    assert asked.column("who_was_silent", "round", "attempt", "client_id", "participation", "why") == [
        (3, 1, "3", "dropped", "closed"),
        *((4, 1, client, "cut_short", stopped) for client in "234"),
        (4, 2, "4", "timed_out", "attempt 2 of round 4 is over"),
        (5, 1, "4", "not_sent", "it owes the answer to round 4"),
    ]
    assert asked.column("who_was_silent", "client_id", "label", "decision", round=3) == [("3", "Oslo", None)]
    assert asked.rows("who_was_silent", "pilot") == []


def test_whose_update(asked: Asked) -> None:
    for upload in asked.facts.of():
        rows = asked.rows("whose_update", digest=upload.message)
        assert ("message", upload.client, upload.decision) in {
            (row["matched"], row["client_id"], row["decision"]) for row in rows
        }
    (far,) = asked.facts.of(client="4", round=3)
    (row,) = asked.rows("whose_update", digest=far.digest)
    assert (row["matched"], row["client_id"], row["round"], row["attempt"]) == ("update", "4", 3, 1)
    assert (row["identity"], row["peer_host"]) == ("claimed", told.HOSTS["4"])


def test_whose_word(asked: Asked) -> None:
    columns = ("client_id", "label", "identity", "updates", "addresses")
    accepted = Counter(u.client for u in asked.facts.of(decision="accepted"))
    assert asked.column("whose_word", *columns) == [
        (c, told.LABELS[c], "claimed", accepted[c], told.HOSTS[c]) for c in "1234"
    ]
    pilot = asked.column("whose_word", "client_id", "identity", "updates", run="pilot")
    assert pilot == [("1", "authenticated", 1), ("2", "authenticated", 1)]
