"""An event as canonical JSON, and back: nothing of an event is lost, so that the tables can be derived again.

Canonical: sorted keys, no blanks, ASCII only (a lone surrogate that a peer sent is an escape like any other), NaN and
the infinities as :func:`~flserver.text.json_number` writes them. (In the tables' REAL columns they are NULL.)
"""

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from json.encoder import encode_basestring_ascii as quoted
from math import isfinite
from operator import itemgetter
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from flserver import events
from flserver.errors import StoreError
from flserver.events import Event
from flserver.frozen import of_fields
from flserver.text import json_number

EVENT_TYPES: Mapping[str, type[Event]] = {
    cls.__name__: cls
    for cls in vars(events).values()
    if isinstance(cls, type) and issubclass(cls, Event) and cls is not Event
}


def canonical_json(value: object) -> str:
    """``value`` as canonical JSON. Dataclasses and mappings become objects, tuples arrays, paths text.

    Raises TypeError for what JSON cannot hold.
    """
    try:
        return _ENCODER.encode(value)
    except ValueError:  # a number that is not finite: rare, so that the plain case is not searched for it
        return _ENCODER.encode(_finite(value))


def to_payload(event: Event) -> str:
    """All fields of ``event`` as canonical JSON. Raises TypeError where one holds what JSON cannot hold."""
    return _of_fields(event)


def _of_fields(value: Any) -> str:
    """The same of any dataclass."""
    template, values = _form(cast(Hashable, type(value)))
    return template % tuple([_WRITES.get(type(field), canonical_json)(field) for field in values(vars(value))])


def from_payload(type_name: str, payload: str) -> Event:
    """The event of the class ``type_name`` that :func:`to_payload` wrote.

    Raises StoreError where this version knows no such event, or the payload is not that of one.
    """
    try:
        return _build(EVENT_TYPES[type_name], json.loads(payload))  # type: ignore[no-any-return]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"the payload of a {type_name} event cannot be read: {error!r}") from error


def _plain(value: object) -> object:
    """What the encoder does not know, as what it knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an event")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_plain)


_WRITES: Mapping[type, Callable[[Any], str]] = {
    str: quoted,
    int: int.__repr__,
    NoneType: lambda value: "null",
    bool: lambda value: "true" if value else "false",
    float: lambda value: float.__repr__(value) if isfinite(value) else canonical_json(value),
    tuple: lambda value: _of_items(value) if value else "[]",
}
"""What most fields of events hold, as the encoder writes it, without one for each event."""


def _of_items(values: tuple[Any, ...]) -> str:
    if not is_dataclass(values[0]):
        return canonical_json(values)
    return f"[{','.join([_of_fields(value) if is_dataclass(value) else canonical_json(value) for value in values])}]"


@cache
def _form(cls: Any) -> tuple[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]]:
    """The payload of what is of that class around its values, and what gives these in their order."""
    names = sorted(field.name for field in fields(cls))
    values = itemgetter(*names)
    inside = ",".join(f"{quoted(name)}:%s" for name in names)
    return f"{{{inside}}}", values if len(names) > 1 else lambda given: (values(given),)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    plain = value if isinstance(value, dict) else _plain(value)
    return {key: _finite(item) for key, item in plain.items()} if isinstance(plain, dict) else plain


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a class is built of JSON: the fields it ``knows``, those it ``needs``, and what makes of a value what its
    field holds, for those fields where that is another."""

    knows: frozenset[str]
    needs: frozenset[str]
    readers: tuple[tuple[str, Callable[[Any], Any]], ...]


@cache
def _plan(cls: type) -> _Plan:
    hints, known = get_type_hints(cls), fields(cls)
    readers = [(field.name, reader) for field in known if (reader := _reader(hints[field.name])) is not None]
    needed = [field.name for field in known if field.default is MISSING and field.default_factory is MISSING]
    return _Plan(frozenset(field.name for field in known), frozenset(needed), tuple(readers))


def _build(cls: type, values: dict[str, Any]) -> Any:
    """An instance of a class made of JSON's ``values``, which are its from here on."""
    plan = _plan(cls)
    if missing := plan.needs - values.keys():
        raise ValueError(f"{', '.join(sorted(missing))} missing")
    if values.keys() == plan.knows:  # as this version writes it
        for name, read in plan.readers:
            values[name] = read(values[name])
        return of_fields(cls, values)
    given = {name: values[name] for name in values.keys() & plan.knows}
    for name, read in plan.readers:
        if name in given:
            given[name] = read(given[name])
    return cls(**given)


def _reader(hint: Any) -> Callable[[Any], Any] | None:
    """What makes of a JSON value one of the type that a field of an event declares; None where it is that already.

    A word is read as it stands, also where it is in no closed set of ours: the record of another version may have it.
    """
    if get_origin(hint) is tuple:
        item = _reader(get_args(hint)[0]) or (lambda value: value)
        return lambda value: tuple(item(part) for part in value)
    if get_origin(hint) in (Union, UnionType):
        (known,) = [option for option in get_args(hint) if option is not type(None)][:1]
        some = _reader(known)
        return some and (lambda value: None if value is None else some(value))
    if hint is float:
        return lambda value: float(value) if isinstance(value, str) else value
    if is_dataclass(hint) and isinstance(hint, type):
        return lambda value: _build(hint, value)
    return None
