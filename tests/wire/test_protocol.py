"""The six messages and the order in which they may come."""

import json
import math
import pickle
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import MessageRefused, PeerError
from flserver.wire import protocol
from flserver.wire.messages import (
    FINISHED_BODY,
    MAX_DATA_SIZE,
    STOPPED_BODY,
    Error,
    Finished,
    GlobalModel,
    Measurement,
    Metadata,
    Success,
    Update,
    encode_json,
    encode_metadata,
    shown,
)
from flserver.wire.protocol import FROM_CLIENT, TRANSITIONS, Conversation, Role, State


def server() -> Conversation:
    return Conversation(Role.SERVER, json_limit=4096, pickle_limit=1 << 20)


def client() -> Conversation:
    return Conversation(Role.CLIENT, json_limit=4096, pickle_limit=1 << 20)


def metadata(**changed: object) -> memoryview:
    fields = {"header": "<METADATA>", "id": 3, "data_size": 1400} | changed
    return memoryview(json.dumps(fields).encode())


def model(**more: object) -> memoryview:
    return memoryview(pickle.dumps({"header": "<MODEL>", "model": torch.nn.Linear(2, 2)} | more))


def test_a_participants_connection_from_both_ends() -> None:
    there, here = client(), server()
    there.send(Metadata)
    assert here.receive(metadata()) == Metadata(client_id="3", data_size=1400)
    here.send(Success)
    assert there.receive(memoryview(encode_json(Success(msg="hi")))) == Success(msg="hi")
    for _ in range(2):
        here.send(GlobalModel)
        assert isinstance(there.receive(model()), GlobalModel)
    here.send(Finished)
    assert there.receive(memoryview(FINISHED_BODY)) == Finished()
    assert (there.state, here.state) == (State.ENDED, State.ENDED)


def test_the_table_that_people_read_is_the_table_that_decides() -> None:
    lines = [line.split() for line in (protocol.__doc__ or "").splitlines() if line.startswith("    ")]
    assert lines[0] == ["state", "sender", "message", "next"]
    read = {(state, message): (sender, following) for state, sender, message, following, *_ in lines[2:]}
    assert read == {
        (state.name, kind.__name__): ("client" if kind in FROM_CLIENT else "server", following.name)
        for state, transitions in TRANSITIONS.items()
        for kind, following in transitions.items()
    }
    assert len(read) == len(lines) - 2


def test_the_goodbyes_are_pickles_that_the_fleet_reads_and_one_has_a_key_more() -> None:
    assert pickle.loads(FINISHED_BODY) == {"header": "<FINISHED>"}
    assert pickle.loads(STOPPED_BODY) == {"header": "<FINISHED>", "complete": False}


@pytest.mark.parametrize(
    ("more", "complete"),
    [({}, True), ({"complete": True}, True), ({"complete": 0}, True), ({"complete": False}, False)],
)
def test_a_run_is_complete_unless_its_goodbye_says_otherwise(more: dict[str, object], complete: bool) -> None:
    there = client()
    there.state = State.JOINED
    body = pickle.dumps({"header": "<FINISHED>"} | more)
    assert there.receive(memoryview(body)) == Finished(complete=complete)


@pytest.mark.parametrize(("run", "read"), [(None, None), ("night", "night"), (7, None), (["night"], None)])
def test_which_run_it_is_may_stand_in_the_answer_to_a_registration(run: object, read: str | None) -> None:
    if run is None or isinstance(run, str):
        body = encode_json(Success(msg="hi", run=run))
        assert json.loads(body) == {"header": "<SUCCESS>", "msg": "hi"} | ({"run": run} if run else {})
    else:
        body = json.dumps({"header": "<SUCCESS>", "msg": "hi", "run": run}).encode()
    there = client()
    there.send(Metadata)
    assert there.receive(memoryview(body)) == Success(msg="hi", run=read)


def test_an_upload_is_the_other_kind_of_connection() -> None:
    here = server()
    update = here.receive(model(id="ward-7", metrics={"loss": {"received": 0.5, "trained": 0.25}}))
    assert isinstance(update, Update)
    assert update.client_id == "ward-7"
    assert list(update.model.tensors) == ["weight", "bias"]
    assert update.metrics == (
        Measurement(name="loss", measured_on="received", value=0.5),
        Measurement(name="loss", measured_on="trained", value=0.25),
    )
    assert here.state is State.ENDED


def test_a_refused_registration_ends_the_connection() -> None:
    here = server()
    here.receive(metadata())
    here.send(Error)
    assert here.expected() == ()


def test_what_may_come_is_known_before_it_does() -> None:
    here = server()
    assert set(here.expected()) == {Metadata, Update}
    assert here.frame_limits().json == 4096
    assert here.frame_limits().pickle == 1 << 20
    here.receive(metadata())
    assert here.frame_limits().longest == 0


def test_the_table_says_for_every_state_what_may_follow() -> None:
    assert TRANSITIONS.keys() == set(State)
    for state in State:
        for kind in (Metadata, Success, Error, GlobalModel, Update, Finished):
            connection = server()
            connection.state = state
            if kind in TRANSITIONS[state]:
                connection.send(kind)
                assert connection.state is TRANSITIONS[state][kind]
            else:
                with pytest.raises(MessageRefused, match="out of turn"):
                    connection.send(kind)
                assert connection.state is state
    assert {Metadata, Update} == FROM_CLIENT


@pytest.mark.parametrize("value", [3, "3", -1, 0, 2**63 - 1, "ward-7", "Zürich", "a" * 128])
def test_ids_are_text(value: object) -> None:
    message = server().receive(metadata(id=value))
    assert isinstance(message, Metadata)
    assert message.client_id == str(value)


@pytest.mark.parametrize("value", [True, 1.0, None, [], {}, "", " 3", "a\0b", "a\nb", "a" * 129, 2**63, "\ud800"])
def test_what_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(MessageRefused, match="is not a client id"):
        server().receive(metadata(id=value))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (-1, "-1"),
        (-1.0, "-1.0"),
        (1.5, "1.5"),
        (True, "True"),
        ("100", "'100', a text,"),
        (None, "None"),
        ([10], "a list"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (MAX_DATA_SIZE + 1, "536870912"),
        (1e300, "1e+300"),
        (10**30, "1000000000000000000000000000000"),
    ],
)
def test_data_size_is_an_integer_in_its_range(value: object, told: str) -> None:
    with pytest.raises(MessageRefused) as refused:
        server().receive(metadata(data_size=value))
    assert str(refused.value) == f"data_size {told} is not an integer from 1 to 536870911"


@pytest.mark.parametrize("written", ["10", "10.0", "1e1", "100e-1", "10.000"])
def test_a_data_size_is_taken_as_meant(written: str) -> None:
    body = f'{{"header": "<METADATA>", "id": 3, "data_size": {written}}}'
    message = server().receive(memoryview(body.encode()))
    assert message == Metadata(client_id="3", data_size=10)
    assert isinstance(message, Metadata)
    assert type(message.data_size) is int


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["{}", "[0, {}]", '{{"a": [{}]}}'])
@pytest.mark.parametrize("key", ["last_loss", "info", "msg", "model"])
def test_a_number_that_json_has_not_is_no_matter_where_nobody_asks_for_it(number: str, place: str, key: str) -> None:
    body = f'{{"header": "<METADATA>", "id": 3, "data_size": 10, "{key}": {place.format(number)}}}'
    message = server().receive(memoryview(body.encode()))
    assert isinstance(message, Metadata)
    assert (message.client_id, message.data_size) == ("3", 10)


def test_a_registrations_fields_are_kept_as_they_were_sent() -> None:
    fields = {"id": "3", "data_size": 10.0, "last_loss": -math.inf, "hobby": ["chess"]}
    message = server().receive(metadata(**fields, info={"epochs": 8}, deep=nested(9), deepest=nested(300)))
    assert message == Metadata(client_id="3", data_size=10, info={"epochs": 8})
    assert isinstance(message, Metadata)
    assert message.sent == fields
    assert (type(message.sent["id"]), type(message.sent["data_size"])) == (str, float)


def test_data_size_may_be_as_large_as_fedavg_is_exact() -> None:
    message = server().receive(metadata(data_size=2**29 - 1))
    assert isinstance(message, Metadata)
    assert message.data_size == 2**29 - 1


def nested(levels: int) -> object:
    value: object = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize("info", [None, 3, [1], "x", {"deep": nested(8)}, {"deep": nested(300)}])
def test_info_of_the_wrong_kind_is_ignored(info: object) -> None:
    message = server().receive(metadata(info=info))
    assert isinstance(message, Metadata)
    assert message.info == {}


def test_info_of_eight_levels_is_kept() -> None:
    message = server().receive(metadata(info={"deep": nested(7)}))
    assert isinstance(message, Metadata)
    assert message.info == {"deep": nested(7)}


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        5,
        {"loss": 0.5},
        {"loss": {"received": "0.5"}},
        {"loss": {"received": True}},
        {"loss": {"elsewhere": 0.5}},
        {"": {"received": 0.5}},
        {"a\nb": {"received": 0.5}},
        {7: {"received": 0.5}},
        {"loss": []},
        {"loss": {"received": 10**400}},
        {"loss": {"received": -(2**1024)}},
    ],
)
def test_metrics_that_cannot_be_used_are_ignored(metrics: object) -> None:
    update = server().receive(model(id=1, metrics=metrics))
    assert isinstance(update, Update)
    assert update.metrics == ()


def test_numbers_are_kept_as_they_were_sent_whether_they_can_be_so_or_not() -> None:
    metrics = {"loss": {"received": 1e300, "trained": float("nan")}, "accuracy": {"received": float("-inf")}}
    update = server().receive(model(id=1, metrics=metrics | {"n": {"received": 2**1023}}))
    assert isinstance(update, Update)
    assert repr([measurement.value for measurement in update.metrics]) == f"[1e+300, nan, -inf, {2.0**1023}]"


@pytest.mark.parametrize(("unusable", "found"), [(999, 1), (1000, 0)])
def test_a_thousand_names_of_metrics_are_looked_at(unusable: int, found: int) -> None:
    metrics = {f"n{n}": None for n in range(unusable)} | {"loss": {"received": 0.5}}
    update = server().receive(model(id=1, metrics=metrics))
    assert isinstance(update, Update)
    assert len(update.metrics) == found


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("ward-7\n", r"'ward-7\n'"),
        ("it's", "'it's'"),
        ("\ud800", r"'\ud800'"),
        (None, "None"),
        (True, "True"),
        (-1.5, "-1.5"),
        (2**64, "18446744073709551616"),
        ((1,), "a tuple"),
        ([1], "a list"),
        ({}, "a dict"),
        (memoryview(b"x"), "bytes"),
        (object(), "an object"),
    ],
)
def test_what_a_reason_says_of_a_peers_value(value: object, told: str) -> None:
    assert shown(value) == told


def test_a_reason_cuts_long_text_and_counts_the_bits_of_long_integers() -> None:
    assert shown("a" * 10**7) == "'" + "a" * 55 + "...'"
    assert shown(10**5000) == "an integer of 16610 bits"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"header": "<METADATA>"',
        b'{"header": NaN}',
        b'{"a": "\xff"}',
        b'{"a":' + b"[" * 4000,
        b'{"id": ' + b"9" * 4080 + b"}",
        b'{"header": "<NO>"}',
        b'{"header": "<SUCCESS>", "msg": "from a client"}',
        b'{"header": "<MODEL>", "id": 3}',
        b"{}",
        pickle.dumps({"header": "<METADATA>", "id": 3, "data_size": 5}),
        pickle.dumps({"header": "<FINISHED>"}),
        pickle.dumps({"header": "<MODEL>", "id": 3, "model": 5}),
        pickle.dumps({"header": "<MODEL>", "id": 3}),
        pickle.dumps({"header": 5}),
        pickle.dumps([1, 2]),
        pickle.dumps(None),
    ],
)
def test_what_is_no_message_is_refused_and_leaves_the_state(body: bytes) -> None:
    here = server()
    with pytest.raises(PeerError):
        here.receive(memoryview(body))
    assert here.state is State.OPENED


@given(st.binary(max_size=300), st.sampled_from([b"{", b"\x80\x04"]))
def test_no_bytes_raise_anything_but_a_peer_error(rest: bytes, first: bytes) -> None:
    with suppress(PeerError):
        server().receive(memoryview(first + rest))


@given(st.binary(max_size=300), st.sampled_from([b'{"header": ', b"\x80\x04}X\x06\x00\x00\x00header"]))
def test_reasons_are_one_short_line(rest: bytes, first: bytes) -> None:
    with pytest.raises(PeerError) as refused:
        server().receive(memoryview(first + rest))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@given(st.text(max_size=50), st.integers(1, MAX_DATA_SIZE))
def test_our_own_registration_is_read_back(text: str, size: int) -> None:
    try:
        message = server().receive(memoryview(encode_metadata(text, size, {"epochs": 8})))
    except MessageRefused:
        return
    assert message == Metadata(client_id=text, data_size=size, info={"epochs": 8})


def test_an_integer_id_goes_out_as_the_fleet_sends_it() -> None:
    assert json.loads(encode_metadata("3", 10, {}))["id"] == 3
    assert json.loads(encode_metadata("03", 10, {}))["id"] == "03"
    assert json.loads(encode_metadata("9" * 30, 10, {}))["id"] == "9" * 30
    assert json.loads(encode_metadata("ward-7", 10, {}))["id"] == "ward-7"
