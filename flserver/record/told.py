"""What trainers told of themselves when they registered, such as their learning rate: where runs differ in it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flserver.store.reader import Reader

MOST_KEYS, MOST_VALUES = 50, 100
"""How many keys of a run are looked at, those first that most trainers have; how many values of one are told."""
LONGEST, LONGEST_INFO = 200, 20_000  # characters of a key or a text that are told, of all that is read of one trainer

Scalar = str | int | float | bool
Told = Mapping[str, frozenset[str]]
"""What a run's trainers told, by the key: each value as JSON."""
NO_VALUE = "null"
"""What a client tells under a key of others', as JSON."""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A client told something else when it registered again, at ``at``: values as JSON."""

    client_id: str
    registration: int
    at: str
    before: str
    now: str


@dataclass(frozen=True, kw_only=True)
class OfClients:
    """What one run's clients told under one key: the ids of the ``clients`` by the value that they told last, as JSON,
    those of most of them first, and what was ``changed`` on the way."""

    clients: Mapping[str, Sequence[str]]
    changed: Sequence[Changed]


@dataclass(frozen=True, kw_only=True)
class Values:
    """What the trainers of one run told under one key: ``distinct`` values, of which ``values`` are the first."""

    values: tuple[Scalar, ...]
    distinct: int


def told_by_trainers(reader: Reader, run_id: str) -> Told:
    """The numbers, texts and truth values at the top of the ``info`` of those clients that were invited to a round.

    It is empty where they told nothing, or it was purged.
    """
    _, rows = reader.query(_INFOS, {"run_id": run_id, "longest": LONGEST_INFO})
    found: dict[str, set[str]] = {}
    by_key: Counter[str] = Counter()
    for (info,) in rows:
        for key, value in _scalars(info).items():
            by_key[key] += 1
            found.setdefault(key, set()).add(json.dumps(value))
    most = sorted(found, key=lambda key: (-by_key[key], key))[:MOST_KEYS]
    return {key: frozenset(found[key]) for key in sorted(most)}


def told_by_clients(reader: Reader, run_id: str) -> dict[str, OfClients]:
    """As :func:`told_by_trainers`, with who told what, and who told something else later."""
    last: dict[str, dict[str, str]] = {}
    changed: dict[str, list[Changed]] = {}
    for client, registration, at, info in reader.each(_BY_CLIENT, {"run_id": run_id, "longest": LONGEST_INFO})[1]:
        now = {key: json.dumps(value) for key, value in _scalars(info).items()}
        before = last.get(client, now)
        for key in {**before, **now}:
            values = [told.get(key, NO_VALUE) for told in (before, now)]
            if values[0] != values[1]:
                one = Changed(client_id=client, registration=registration, at=at, before=values[0], now=values[1])
                changed.setdefault(key, []).append(one)
        last[client] = now
    keys = Counter(key for told in last.values() for key in told) + Counter(changed.keys())
    most = sorted(keys, key=lambda key: (-keys[key], key))[:MOST_KEYS]
    return {key: OfClients(clients=_by_value(key, last), changed=changed.get(key, ())) for key in sorted(most)}


def _by_value(key: str, last: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for client, told in last.items():
        found.setdefault(told.get(key, NO_VALUE), []).append(client)
    return {value: found[value] for value in sorted(found, key=lambda value: (-len(found[value]), _by_size(value)))}


def _by_size(value: str) -> tuple[bool, float, str]:
    return _order("" if value == NO_VALUE else json.loads(value))


def _scalars(info: str) -> dict[str, Scalar]:
    try:
        fields = json.loads(info)
    except (ValueError, RecursionError):  # of a stranger's record
        return {}
    found = fields.items() if isinstance(fields, dict) else ()
    return {key[:LONGEST]: _short(value) for key, value in found if isinstance(value, str | int | float)}


def _short(value: Scalar) -> Scalar:
    """A text's beginning; 1.0 is the number that 1 is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value[:LONGEST] if isinstance(value, str) else value


def told_that_differs(runs: Sequence[Told]) -> dict[str, tuple[Values, ...]]:
    """Each key whose values are not the same in all runs, with those of each of them."""
    keys = sorted({key for told in runs for key in told})
    values = {key: [told.get(key, frozenset()) for told in runs] for key in keys}
    return {key: tuple(map(_values, each)) for key, each in values.items() if len(set(each)) > 1}


def _values(found: frozenset[str]) -> Values:
    values: list[Any] = sorted(map(json.loads, found), key=_order)
    return Values(values=tuple(values[:MOST_VALUES]), distinct=len(values))


def _order(value: Scalar) -> tuple[bool, float, str]:
    """Numbers by their size, then texts."""
    # No float is made of a number, which may be larger than any.
    return (True, 0, value) if isinstance(value, str) else (False, value, "")


_INFOS = """
    SELECT DISTINCT info FROM v1_clients
    WHERE run_id = :run_id AND length(info) <= :longest
        AND client_id IN (SELECT client_id FROM v1_client_rounds WHERE run_id = :run_id)"""
_BY_CLIENT = """
    SELECT client_id, registration, registered_at, COALESCE(info, '{}') FROM v1_clients
    WHERE run_id = :run_id AND (info IS NULL OR length(info) <= :longest)
        AND client_id IN (SELECT client_id FROM v1_client_rounds WHERE run_id = :run_id)
    ORDER BY client_id, registration"""
