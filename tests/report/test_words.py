"""What a report says in sentences: who took part, how good the models are, what went wrong and what is not known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from flserver import events as e
from flserver.report import figures, troubles, words
from flserver.report.facts import Facts
from flserver.report.page import page
from flserver.store.schema import ensure_head
from tests import facts
from tests.report.conftest import read
from tests.store import story

Numbers = tuple[tuple[str, float, str], ...]
"""Name, value and source of what was measured on a round's model."""


def measured(place: Path, *rounds: Numbers) -> Facts:
    """A run in which that was measured, from round 0 on, as the server records it."""
    ensure_head(place / "runs.sqlite")
    events = story.started()
    for number, of_round in enumerate(rounds):
        own = {name: v for name, v, by in of_round if by == "evaluate" and name != "f1" and math.isfinite(v)}
        made = (facts.round_metric(round=number, name=name, value=v, source=source) for name, v, source in of_round)
        events += [facts.attempt(number), facts.committed(number, metrics=tuple(made), **own)]
    story.write(place / "runs.sqlite", events)  # by a server that did not end it: a trouble of its own, the first one
    return read(place / "runs.sqlite", "night")


def losses(*values: float) -> Sequence[Numbers]:
    return [(("loss", value, "evaluate"),) for value in values]


def how_good(facts: Facts) -> str:
    return words.summary(facts)[2]


def not_known(facts: Facts) -> str:
    return " ".join(words.unknown(facts))


def test_a_run_whose_last_model_is_the_best(tmp_path: Path) -> None:
    found = measured(tmp_path, *losses(1.0, 0.5))
    assert how_good(found) == "The last model, that of round 1, has a loss of 0.5. It is the best one."


def test_a_run_that_diverged_is_told_so(tmp_path: Path) -> None:
    found = measured(tmp_path, *losses(1.0, 0.5, math.nan))
    assert how_good(found) == (
        "The last model, that of round 2, has a loss of NaN. The best one is that of round 1, with a loss of 0.5."
    )
    assert troubles.lines(found)[1:] == ["The loss was not finite in round 2: the model had diverged."]
    assert "How good the models are" not in not_known(found)
    assert "<dd>NaN<small>best 0.5, round 1</small>" in page([found])


def test_a_run_whose_loss_was_never_finite_was_measured_all_the_same(tmp_path: Path) -> None:
    found = measured(tmp_path, *losses(math.nan, math.inf))
    assert how_good(found) == (
        "The last model, that of round 1, has a loss of infinite. No model has a loss or an accuracy that is finite, "
        "so none is the best one."
    )
    assert "How good the models are" not in not_known(found)
    assert [figure.name for figure in figures.learning(found)] == ["chart-loss"]


def test_that_any_other_number_is_not_finite_says_nothing_of_the_model(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        (("loss", 1.0, "evaluate"), ("f1", math.nan, "evaluate")),
        (("loss", 0.5, "evaluate"), ("accuracy", math.nan, "evaluate"), ("loss", math.inf, "clients")),
    )
    assert troubles.lines(found)[1:] == [
        "What was measured besides was not finite in round 0 and 1: the accuracy, f1, loss at the clients."
    ]


def test_where_nothing_was_measured_that_is_said(tmp_path: Path) -> None:
    found = measured(tmp_path, (), (("loss", 0.5, "clients"),))
    assert how_good(found).startswith("Its models were not evaluated")
    assert "How good the models are: the server had no evaluation data." in not_known(found)


def test_without_a_round_there_is_no_model(tmp_path: Path) -> None:
    assert how_good(measured(tmp_path)) == "No round is committed, so there is no model yet."


def by_whom(facts: Facts) -> str:
    return words.summary(facts)[1]


def test_who_came_and_what_was_sent(eventful: Path) -> None:
    said = by_whom(read(eventful, "night"))
    assert said == (
        "3 clients were invited, and all answered. Of 6 updates that came, 2 were accepted; client 1 weighs most, with "
        "50.0% of the run. Models sent came to 5.04 kB, updates received to 6.05 kB. It took 1 server process and 2 "
        "ingest nodes."
    ), "a duplicate's bytes came too"


def test_operators_are_those_who_started_and_resumed(eventful: Path) -> None:
    facts = read(eventful, "night")
    acts = [
        {**facts.acts[0], "kind": kind, "actor": actor}
        for kind, actor in (("start", "alice"), ("resume", "bob"), ("purge", "root"), ("export", "eve"), ("stop", "x"))
    ]
    said = by_whom(replace(facts, acts=acts))
    assert said.endswith("It took 1 server process and 2 ingest nodes, operated by alice and bob.")
    assert by_whom(replace(facts, acts=acts, nodes=())).endswith("It took 1 server process, operated by alice and bob.")


@pytest.mark.parametrize(
    ("clients", "answered", "said"),
    [
        (1, 0, "1 client was invited, and did not answer. No update has come."),
        (2, 0, "2 clients were invited, and none answered. No update has come."),
        (2, 1, "2 clients were invited, and 1 of them answered. Of 1 update that came, 0 were accepted."),
        (1, 1, "1 client was invited, and answered. Of 1 update that came, 0 were accepted."),
    ],
)
def test_who_was_invited_has_not_taken_part_before_it_answers(
    tmp_path: Path, clients: int, answered: int, said: str
) -> None:
    ensure_head(tmp_path / "runs.sqlite")
    names = [str(number) for number in range(1, clients + 1)]
    events: list[e.Event] = [*story.started(), facts.attempt(0), facts.committed(0), facts.attempt(1, 1, names)]
    for number in range(1, answered + 1):
        events += story.uploaded(number, str(number), (1, 1))
    story.write(tmp_path / "runs.sqlite", events)
    found = read(tmp_path / "runs.sqlite", "night")
    assert by_whom(found).startswith(said)
    assert f"<dt>clients</dt><dd>{answered}<small>answered of {clients} invited</small>" in page([found])


def test_a_process_whose_end_nobody_saw_is_told_of(eventful: Path) -> None:
    facts = read(eventful, "night")
    gone = replace(facts, processes=[{**facts.processes[0], "ended_at": None}, *facts.processes])
    assert "1 server process had no orderly end (killed, or a power cut)." in troubles.lines(gone)
    assert "When 1 server process ended: nobody saw it." in words.unknown(gone)
    assert "nobody saw it" not in not_known(facts)


def test_free_text_stands_for_no_reason(eventful: Path) -> None:
    facts = read(eventful, "night")
    update = {**facts.updates[0], "decision": "rejected", "reason": "I am Ada"}
    attempt = {**facts.attempts[0], "status": "aborted", "reason": "stopped by Ada"}
    for personal, why, reason in ((False, "stopped", "other"), (True, "stopped by Ada", "I am Ada")):
        given = replace(facts, personal=personal, updates=[update], attempts=[attempt])
        assert troubles.attempts_table(given).rows[0][2] == why
        assert troubles.decisions_table(given).rows[0][1] == reason
        assert f"1 attempt was aborted ({why}): of round 0." in troubles.lines(given)
