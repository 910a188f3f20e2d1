"""Clients and rounds: what came of each in each, read page by page, so that memory holds one page and the picture."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from flserver.report.states import ABSENT, STATES, state_of
from flserver.store.reader import Reader

PAGE = 20_000  # rows in memory at once
MOST_CLIENTS, MOST_COLUMNS = 500, 1000  # of the picture; the tables have all

_GRAVE = np.array([*(state.grave for state in STATES), -1])


@dataclass(frozen=True, kw_only=True)
class ClientFacts:
    """A client over the whole run. ``states`` counts the rounds by what came of it in them, by the state's number."""

    client_id: str
    row: Mapping[str, Any]
    states: Counter[int]


@dataclass(frozen=True, kw_only=True)
class RoundFacts:
    """A round over its clients, as its last attempt has them; seconds, norms and weights of what was accepted."""

    round: int
    states: Counter[int]
    slowest: tuple[str, float] | None
    median_seconds: float | None
    norms: tuple[float, float, float, float, float] | None  # least, quartiles, greatest
    heaviest: tuple[str, float] | None
    effective: float | None  # how many clients of equal weight would say as much: 1 / Σ weight²


@dataclass
class Picture:
    """Cells by client and column; a column is ``block`` rounds, from ``first`` on. ``state`` holds the states' numbers,
    ``seconds`` the longest time to an answer, NaN where there is none."""

    clients: Sequence[str]
    first: int
    last: int
    block: int
    state: Any = field(init=False)
    seconds: Any = field(init=False)

    def __post_init__(self) -> None:
        shape = (len(self.clients), self.columns)
        self.state = np.full(shape, ABSENT, dtype=np.uint8)
        self.seconds = np.full(shape, np.nan, dtype=np.float32)

    @property
    def columns(self) -> int:
        return (self.last - self.first) // self.block + 1

    def put(self, row: int, round: int, state: int, seconds: float | None) -> None:
        column = (round - self.first) // self.block
        if _GRAVE[state] > _GRAVE[self.state[row, column]]:
            self.state[row, column] = state
        if seconds is not None:
            self.seconds[row, column] = np.fmax(self.seconds[row, column], seconds)


@dataclass(frozen=True, kw_only=True)
class Participation:
    """Everything about clients in rounds; ``picture`` is None where no client was ever invited."""

    clients: Sequence[ClientFacts]
    rounds: Sequence[RoundFacts]
    picture: Picture | None


def natural(client_id: str) -> tuple[tuple[int, int, str], ...]:
    """The key by which 2 stands before 10, and both before names."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", client_id)
    return tuple((0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts)


def read_participation(reader: Reader, run_id: str, most: int = MOST_CLIENTS) -> Participation:
    """What v1_client_rounds has of the run; the picture has ``most`` clients."""
    columns, found = reader.query(_BY_CLIENT, {"run_id": run_id})
    by_client = {row[0]: dict(zip(columns, row, strict=True)) for row in found}
    if not by_client:
        return Participation(clients=(), rounds=(), picture=None)
    names = sorted(by_client, key=natural)
    first, last = min(row["first"] for row in by_client.values()), max(row["last"] for row in by_client.values())
    block = -(-(last - first + 1) // MOST_COLUMNS)
    picture = Picture(names[:most], first, last, block)
    places = {name: place for place, name in enumerate(picture.clients)}
    states: dict[str, Counter[int]] = {name: Counter() for name in names}
    rounds = []
    for number, rows in _rounds(reader, run_id, first, last, max(1, PAGE // len(names))):
        latest = {row[1]: row for row in rows}  # in the order of the attempts
        for name, row in latest.items():
            state = state_of(row[2], row[3])
            states[name][state] += 1
            if name in places:
                picture.put(places[name], number, state, row[4])
        rounds.append(_round(number, latest))
    clients = [ClientFacts(client_id=name, row=by_client[name], states=states[name]) for name in names]
    return Participation(clients=clients, rounds=rounds, picture=picture)


_BY_CLIENT = """
    SELECT client_id, MIN(round) AS first, MAX(round) AS last,
        COUNT(CASE WHEN decision = 'accepted' THEN 1 END) AS accepted,
        AVG(seconds) AS mean_seconds, MAX(seconds) AS max_seconds,
        AVG(CASE WHEN decision = 'accepted' THEN update_norm END) AS mean_norm,
        MAX(CASE WHEN decision = 'accepted' THEN update_norm END) AS max_norm,
        SUM(weight) AS weight, MAX(weight) AS max_weight, MAX(data_size) AS data_size,
        MAX(counted_size) AS counted_size,
        SUM(bytes_in) AS bytes_in, SUM(bytes_out) AS bytes_out
    FROM v1_client_rounds WHERE run_id = :run_id GROUP BY client_id"""
_PAGE = """
    SELECT round, client_id, participation, decision, seconds, update_norm, weight FROM v1_client_rounds
    WHERE run_id = :run_id AND round BETWEEN :first AND :last ORDER BY round, attempt"""


def _rounds(
    reader: Reader, run_id: str, first: int, last: int, page: int
) -> Iterator[tuple[int, Iterator[tuple[Any, ...]]]]:
    for begin in range(first, last + 1, page):
        rows = reader.query(_PAGE, {"run_id": run_id, "first": begin, "last": min(last, begin + page - 1)})[1]
        yield from groupby(rows, key=lambda row: int(row[0]))


def _round(number: int, latest: Mapping[str, tuple[Any, ...]]) -> RoundFacts:
    accepted = [row for row in latest.values() if row[3] == "accepted"]
    seconds = [(row[4], name) for name, row in latest.items() if row[4] is not None]
    norms = [row[5] for row in accepted if row[5] is not None]
    weights = [(row[6], row[1]) for row in accepted if row[6] is not None]
    slowest, heaviest = max(seconds, default=None), max(weights, default=None)
    squares = sum(weight * weight for weight, _ in weights)
    return RoundFacts(
        round=number,
        states=Counter(state_of(row[2], row[3]) for row in latest.values()),
        slowest=None if slowest is None else (slowest[1], slowest[0]),
        median_seconds=float(np.median([value for value, _ in seconds])) if seconds else None,
        norms=None if not norms else tuple(map(float, np.quantile(norms, (0, 0.25, 0.5, 0.75, 1)))),  # type: ignore[arg-type]
        heaviest=None if heaviest is None else (heaviest[1], heaviest[0]),
        effective=1 / squares if squares else None,
    )
