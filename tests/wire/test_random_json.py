"""JSON bodies of any kind: one of the messages, or MessageRefused, and nothing but plain values inside."""

import json
import math
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import MessageRefused, PickleRefused
from flserver.store.payloads import canonical_json
from flserver.wire.ids import MAX_ID_LENGTH, why_no_id
from flserver.wire.messages import (
    MAX_DATA_SIZE,
    MAX_INFO_DEPTH,
    Error,
    Message,
    Metadata,
    Success,
    decode,
    encode_metadata,
)
from flserver.wire.pickles import PickleLimits
from tests.examples import times
from tests.fuzz.target import try_input
from tests.fuzz.watch import one_short_line

HEADERS = ("<METADATA>", "<SUCCESS>", "<ERROR>", "<MODEL>", "<FINISHED>", "<metadata>", "")
KEYS = ("header", "id", "data_size", "info", "msg")

surrogates = st.integers(0xD800, 0xDFFF).map(chr)
texts = st.text(max_size=20) | surrogates | st.text(st.characters(), max_size=MAX_ID_LENGTH + 2)
# As text of a JSON document: what json.dumps never writes is among them.
literals = st.sampled_from(
    ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-0", "-0.0", "1E+2", "0.1e-400", "01", "+1", "1.", ".5", "nul")
)
scalars = (
    st.none().map(json.dumps)
    | st.booleans().map(json.dumps)
    | st.integers(-(2**70), 2**70).map(str)
    | st.integers(4290, 4310).map(lambda digits: "9" * digits)  # Python reads up to 4300
    | st.floats(allow_nan=False, allow_infinity=False).map(json.dumps)
    | texts.map(json.dumps)
    | texts.map(lambda text: json.dumps(text, ensure_ascii=False))
    | literals
)

keys = (st.sampled_from(KEYS) | texts).map(json.dumps)


def listed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")


def named(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Objects; a key may come twice."""
    return st.lists(st.tuples(keys, inner), max_size=4).map(
        lambda items: "{" + ",".join(f"{key}: {value}" for key, value in items) + "}"
    )


nests = st.builds(
    lambda levels, pair: pair[0] * levels + "1" + pair[1] * levels,
    st.sampled_from((1, MAX_INFO_DEPTH - 1, MAX_INFO_DEPTH, 100, 990, 5_000, 50_000)),
    st.sampled_from((("[", "]"), ('{"a":', "}"), ('[{"id":', "}]"))),
)
documents = st.recursive(scalars, lambda inner: listed(inner) | named(inner), max_leaves=12) | nests
some_ids = ("3", '"3"', "3.0", "true", '"ward 7"', '" 3"', '"\\u0000"', '"\\ud800"', "[3]", str(2**63))
ids = st.sampled_from(some_ids) | documents
sizes = st.sampled_from(("1", "0", "-1", "1.0", "true", str(MAX_DATA_SIZE), str(MAX_DATA_SIZE + 1))) | documents
fields = st.one_of(
    st.tuples(st.just('"header"'), st.sampled_from(HEADERS).map(json.dumps) | documents),
    st.tuples(st.just('"id"'), ids),
    st.tuples(st.just('"data_size"'), sizes),
    st.tuples(st.just('"info"') | st.just('"msg"') | keys, documents),
)
# A good registration to start with, half of the time: later fields of the same name replace its own.
GOOD = (("header", "<METADATA>"), ("id", 3), ("data_size", 5))
starts = st.sampled_from(([], [(json.dumps(key), json.dumps(value)) for key, value in GOOD]))
messages = st.builds(
    lambda start, items: "{" + ",".join(f"{key}: {value}" for key, value in start + items) + "}",
    starts,
    st.lists(fields, max_size=8) | nests.map(lambda nest: [('"info"', nest)]),
)


def read(body: bytes, *, from_client: bool) -> Message | None:
    """The message; None where it is refused, with a reason and a header that are fit for the record."""
    try:
        return decode(memoryview(body), from_client=from_client, pickles=PickleLimits())
    except MessageRefused as error:
        refused: MessageRefused | PickleRefused = error
    except PickleRefused as error:
        refused = error
    assert isinstance(refused, MessageRefused) == (body[:1] == b"{")
    assert one_short_line(str(refused))
    assert one_short_line(getattr(refused, "header", None) or "")
    return None


def check(body: bytes) -> None:
    """What comes out is a message of the right direction whose fields keep what they promise."""
    try_input(body)
    message = read(body, from_client=True)
    if message is not None:
        assert isinstance(message, Metadata)
        assert 0 < len(message.client_id) <= MAX_ID_LENGTH
        assert message.client_id.isprintable()
        assert message.client_id == message.client_id.strip()
        assert type(message.data_size) is int
        assert 1 <= message.data_size <= MAX_DATA_SIZE
        assert depth(message.info) <= MAX_INFO_DEPTH
        assert depth(message.sent) <= MAX_INFO_DEPTH + 1
        assert json.loads(canonical_json(message.sent)).keys() == message.sent.keys(), "it has a place on record"
        assert read(encode_metadata(message.client_id, message.data_size, {}), from_client=True) is not None
    answer = read(body, from_client=False)
    if answer is not None:
        assert isinstance(answer, Success | Error)
        assert type(answer.msg) is str


def depth(value: object) -> int:
    inner: list[Any] = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return max(map(depth, inner), default=0) + isinstance(value, dict | list)


@times(4)
@given(messages | documents)
def test_any_json_is_a_message_or_refused(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))
    check(("{" + text).encode("utf-8", "surrogatepass"))


@times(4)
@given(messages, st.data())
def test_cut_and_changed_json_is_a_message_or_refused(text: str, data: st.DataObject) -> None:
    body = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(1, len(body) - 1))] = data.draw(st.integers(0, 255))
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))))
    check(bytes(body))
    check(bytes(body[:end]))
    check(b"{" + body[start:end])


@times(4)
@given(st.lists(st.tuples(st.sampled_from(("3", "4", '"a"')), st.integers(1, 9)), min_size=1, max_size=4))
def test_of_a_key_that_comes_twice_the_last_one_holds(pairs: list[tuple[str, int]]) -> None:
    twice = ",".join(f'"id": {client_id}, "data_size": {size}' for client_id, size in pairs)
    message = read(f'{{"header": "<ERROR>", {twice}, "header": "<METADATA>"}}'.encode(), from_client=True)
    assert message == Metadata(client_id=str(json.loads(pairs[-1][0])), data_size=pairs[-1][1])


@times(4)
@given(st.integers(-(2**70), 2**70) | st.floats() | st.booleans() | texts)
def test_an_id_is_an_integer_or_short_printable_text_and_nothing_else_is(value: object) -> None:
    body = json.dumps({"header": "<METADATA>", "id": value, "data_size": 1}).encode()
    message = read(body, from_client=True)
    if type(value) is int:
        assert (message is not None) == (-(2**63) <= value < 2**63)
    elif type(value) is not str:
        assert message is None
    else:
        assert message == (Metadata(client_id=value, data_size=1) if why_no_id(value) is None else None)


@times(4)
@given(st.integers(0, 2**30) | st.integers(0, 2**30).map(float) | st.floats() | st.booleans() | st.integers().map(str))
def test_a_data_size_is_an_integer_in_its_range_and_nothing_else_is(value: object) -> None:
    body = json.dumps({"header": "<METADATA>", "id": 3, "data_size": value}).encode()
    number = int(value) if type(value) is float and value.is_integer() else value
    allowed = type(number) is int and 1 <= number <= MAX_DATA_SIZE
    message = read(body, from_client=True)
    assert message == (Metadata(client_id="3", data_size=number) if type(number) is int and allowed else None)


def test_json_is_read_with_as_many_digits_as_python_reads_and_as_deep_as_its_stack() -> None:
    """The generators above stand on both sides of these limits."""
    assert sys.get_int_max_str_digits() == 4300
    assert read(b'{"header": "<SUCCESS>", "a": ' + b"[" * 100 + b"]" * 100 + b"}", from_client=False) is not None
    assert read(b'{"header": "<SUCCESS>", "a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", from_client=False) is None
    assert math.isinf(json.loads("1e999"))
