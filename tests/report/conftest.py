"""Runs that were recorded by the real writer, and the pages made of them."""

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flserver import events as e
from flserver.report.facts import Facts, read_facts
from flserver.report.page import page
from flserver.store import tables as t
from flserver.store.schema import ensure_head
from flserver.store.snapshot import snapshot
from tests import facts
from tests.made_once import made_once
from tests.recorded_run import write_database
from tests.store import story

NASTY = "</script><b>1</b>]]>\"'&\u202e" + "x" * 10_000
"""What a client might call itself."""
HOSTILE = "$\\frac</title>"
Read = Callable[..., Facts]


def read(db: Path, ref: str, personal: bool = False) -> Facts:
    with snapshot(db) as reader:
        return read_facts(reader, ref, db, personal)


@pytest.fixture(scope="session")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``night``: a quorum missed, late, duplicate and rejected updates, a client that left and returned, strangers, a
    stop and a resumption, and ``killed``, which is still running: its server died."""
    db = tmp_path_factory.mktemp("eventful") / "runs.sqlite"
    ensure_head(db)
    story.write(db, [*story.sound_run(), facts.run_ended("completed")])
    story.write(db, story.left_over(), run_id=story.LEFT, process_id=2)
    return db


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``HOSTILE``: a run in which everything that somebody may choose is NASTY."""
    db = tmp_path_factory.mktemp("hostile") / "<style>.sqlite"
    ensure_head(db)
    measured = tuple(facts.round_metric(round=n, name=f"$x${NASTY}", value=0.5, source="evaluate") for n in (0, 1))
    act = facts.operator_acted(detail={"before": NASTY, "now": NASTY, "setting": NASTY}, actor=NASTY, reason=NASTY)
    told: list[e.Event] = [
        facts.run_started(facts.RUN, HOSTILE, model=NASTY, strategy=NASTY, config={"model": NASTY, NASTY: NASTY}),
        facts.server_started(1, host=NASTY, user=NASTY),
        act,
        replace(facts.node_started(), host=NASTY, listen_host=NASTY, cpu=NASTY),
        facts.node_lost(slot=1, reason=NASTY, updates=()),
        facts.opened(1, peer_host=NASTY),
        facts.identified(1, peer_host=NASTY, certificate_subject=NASTY),
        facts.registered(NASTY, 1, info={NASTY: NASTY}, label=NASTY),
        facts.attempt(0),
        facts.committed(0, metrics=measured[:1], loss=1.0),
        facts.attempt(1, 1, [NASTY, NASTY[:-1]]),
        facts.update(1, NASTY[:-1], (1, 1), "rejected", f"shape: {NASTY}"),
        facts.update(2, NASTY, (1, 1)),
        facts.committed(
            1, 1, [facts.answered(NASTY, 2, 1.0), facts.answered(NASTY[:-1])], metrics=measured[1:], checkpoint=NASTY
        ),
        facts.received(9, NASTY, "refused", 8, connection_id=1, reason=NASTY),
        facts.left(NASTY, "reset"),
        facts.run_ended("completed"),
    ]
    story.write(db, told)
    return db


def many(clients: int, rounds: int) -> Iterator[e.Event]:
    """A run of so many, in which of a hundred invitations some seven go wrong; the same each time."""
    chance = random.Random(1)
    names = [str(number) for number in range(1, clients + 1)]
    yield from story.started(name="many")
    for number, name in enumerate(names, 1):
        yield from story.registered(name, number)
    yield facts.attempt(0)
    yield facts.committed(0, loss=2.3, accuracy=0.1)
    for round in range(1, rounds + 1):
        yield facts.attempt(round, 1, names)
        outcomes = []
        for number, name in enumerate(names):
            fate = chance.random()
            seconds = chance.lognormvariate(number % 7 / 7, 0.3)
            if fate < 0.93:
                update_id = round * clients + number
                kind: tuple[str, str] | tuple[()] = ("rejected", "shape: fc1.weight is (1,)") if fate < 0.01 else ()
                norm = chance.lognormvariate(0, 0.4)
                yield facts.update(update_id, name, (round, 1), *kind, connection_id=number + 1, update_norm=norm)
                counted = None if kind else update_id
                weight = None if kind else 1 / clients
                outcomes.append(facts.answered(name, counted, weight, seconds=seconds))
            else:
                outcomes.append(facts.silent(name, "dropped" if fate < 0.96 else "timed_out"))
        yield facts.committed(round, 1, outcomes, loss=2.3 / (1 + round / 20), accuracy=1 - 0.9 / (1 + round / 20))
    yield facts.run_ended("completed")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``many``: 8 clients in 12 rounds."""
    db = tmp_path_factory.mktemp("small") / "runs.sqlite"
    ensure_head(db)
    story.write(db, many(8, 12))
    return db


@pytest.fixture(scope="session")
def eventful_page(eventful: Path) -> str:
    return page([read(eventful, "night")])


@pytest.fixture(scope="session")
def recorded_night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``night`` and ``plain`` as tests/recorded_run.py has them."""
    db = tmp_path_factory.mktemp("recorded") / "runs.sqlite"
    write_database(db)
    return db


def write_large(db: Path) -> None:
    """``many``: 200 clients in 1,000 rounds. The first round is recorded, the others are rows made of it: of a hundred
    invitations seven go wrong, and each answer takes its own time."""
    ensure_head(db)
    story.write(db, many(200, 1))
    fate = "(CAST(client_id AS INTEGER) * 7919 + n * 104729) % 97"
    client_rounds = {
        "round": "n",
        "participation": f"CASE WHEN {fate} < 3 THEN 'dropped' WHEN {fate} < 5 THEN 'timed_out' ELSE 'answered' END",
        "decision": f"CASE WHEN {fate} >= 7 THEN 'accepted' WHEN {fate} >= 5 THEN 'rejected' END",
        "weight": f"CASE WHEN {fate} >= 7 THEN 0.005 END",
        "seconds": f"CASE WHEN {fate} >= 5 THEN 1 + CAST(client_id AS INTEGER) % 7 + {fate} / 50.0 END",
        "update_norm": f"CASE WHEN {fate} >= 7 THEN (1 + {fate}) * 10.0 / n END",
    }
    rounds = {"round": "n", "loss": "2.3 / (1 + n / 20.0)", "accuracy": "1 - 0.9 / (1 + n / 20.0)"}
    with closing(sqlite3.connect(db)) as connection, connection:
        for table, changed in ((t.rounds, rounds), (t.client_rounds, client_rounds)):
            columns = [column.name for column in table.columns]
            values = ", ".join(changed.get(column, column) for column in columns)
            connection.execute(
                "WITH RECURSIVE numbers (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000)"
                f" INSERT INTO {table.name} ({', '.join(columns)})"
                f" SELECT {values} FROM numbers, {table.name} AS made WHERE made.round = 1"
            )


@pytest.fixture(scope="session")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run as ``write_large`` writes it."""

    def make(folder: Path) -> None:
        write_large(folder / "runs.sqlite")
        html = page([read(folder / "runs.sqlite", "many")])
        (folder / "page.html").write_text(html, encoding="utf-8")

    return (made_once(tmp_path_factory, "large", make) / "page.html").read_text(encoding="utf-8")
