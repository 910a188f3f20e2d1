"""Nothing of an event is lost on its way into the record and back."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver import events as e
from flserver.errors import StoreError
from flserver.store.payloads import EVENT_TYPES, canonical_json, from_payload, to_payload
from tests import facts
from tests.store import story


def test_the_story_has_every_event_but_one() -> None:
    assert set(EVENT_TYPES) - {type(event).__name__ for event in story.whole_run()} == {"RunLeftOver"}


@pytest.mark.parametrize("event", story.whole_run(), ids=lambda event: type(event).__name__)
def test_an_event_comes_back_equal(event: e.Event) -> None:
    assert repr(from_payload(type(event).__name__, to_payload(event))) == repr(event)  # repr: NaN is not NaN


@pytest.mark.parametrize("event", story.whole_run(), ids=lambda event: type(event).__name__)
def test_an_event_is_written_as_the_encoder_writes_its_fields(event: e.Event) -> None:
    assert to_payload(event) == canonical_json(vars(event))


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.floats() | st.text()))
def test_whatever_a_field_holds_is_written_as_the_encoder_writes_it(value: object) -> None:
    given_as_tuple = tuple(value) if isinstance(value, list) else value
    metric = facts.client_metric(value=value)
    for event in (facts.update(reason=given_as_tuple), facts.update(reason={"a": value}, metrics=(metric, metric))):
        assert to_payload(event) == canonical_json(vars(event))


def test_paths_are_text_and_keys_sorted() -> None:
    assert canonical_json({"b": Path("x/y"), "a": (1, None, True)}) == '{"a":[1,null,true],"b":"x/y"}'


def test_lone_surrogates_are_escapes() -> None:
    assert canonical_json({"h": "<\ud800é>"}) == r'{"h":"<\ud800\u00e9>"}'


def test_numbers_that_json_does_not_have_are_text() -> None:
    assert canonical_json([math.nan, math.inf, {"x": -math.inf}]) == '["NaN","Infinity",{"x":"-Infinity"}]'


@given(st.floats())
def test_any_float_comes_back(value: float) -> None:
    update = facts.update(metrics=(facts.client_metric(value=value),))
    back = from_payload("UpdateReceived", to_payload(update))
    assert isinstance(back, e.UpdateReceived)
    assert repr(back.metrics[0].value) == repr(value)


def test_what_has_no_place_in_an_event_raises() -> None:
    with pytest.raises(TypeError, match="object has no place"):
        canonical_json({"x": object()})


@pytest.mark.parametrize(
    ("name", "payload"),
    [("Unknown", "{}"), ("StateChanged", "{}"), ("StateChanged", "no JSON"), ("UpdateReceived", "[]")],
)
def test_what_is_no_event_raises(name: str, payload: str) -> None:
    with pytest.raises(StoreError, match=name):
        from_payload(name, payload)


def test_a_word_that_is_in_no_closed_set_is_read_as_it_stands() -> None:
    assert from_payload("StateChanged", '{"at":"t","state":"paused"}') == e.StateChanged(at="t", state="paused")


def test_a_field_with_a_default_may_be_missing_in_an_older_record() -> None:
    event = from_payload("StateChanged", '{"at":"t","state":"running","dropped":1}')
    assert event == e.StateChanged(at="t", state="running")
