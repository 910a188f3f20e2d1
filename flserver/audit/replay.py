"""Rounds computed again, and held against the record; a round as it would have been."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from flserver.aggregation import Strategy, load_strategy
from flserver.audit.export import check_name, write_model
from flserver.audit.rounds import Changed, Computed, RecordedRun, Unavailable, finish, strategy_errors
from flserver.errors import UsageError
from flserver.models.evaluation import evaluator_for
from flserver.models.state import State
from flserver.settings import EvaluationPolicy
from flserver.text import printable, three_decimals

CHUNK = 1 << 20  # elements widened at a time
NO_UNLEARNING = "later rounds were trained on the round's model as it was: they are not what they would have been"

Finding = Literal["holds", "differs", "cannot be computed"]


def replay_rounds(run: RecordedRun, number: int | None, strategy: str | None) -> Iterator[tuple[Finding, str]]:
    """Lines that say of each round whose updates are kept, or of round ``number``, what came of computing it again with
    the run's strategy, which is the one that is named where it is somebody's own. Raises UsageError."""
    if number is not None and (number not in run.committed or number == 0):
        raise UsageError(f"run {run.name} has no committed round {number} that was made of updates")
    named = run.strategy(strategy)
    for round in run.kept if number is None else [number]:
        where, recorded = f"run {run.name} round {round}", run.committed[round]
        made = load_strategy(named)
        if recorded["arithmetic"] != made.arithmetic:
            then, now = (str(name or "one without a name") for name in (recorded["arithmetic"], made.arithmetic))
            yield "cannot be computed", f"{where}: its arithmetic was {printable(then)}, this version has {now}"
            continue
        try:
            digest = run.compute(round, made).digest
        except Changed as error:
            yield "differs", f"{where}: {error}"
        except Unavailable as error:
            yield "cannot be computed", f"{where}: {error}"
        else:
            if digest == recorded["model_digest"]:
                yield "holds", f"{where}: {digest}"
            else:
                yield "differs", f"{where}: its updates make {digest}, the record says {recorded['model_digest']}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a round: None is its last one whose updates are kept. ``without`` leaves a client out,
    ``strategy`` is another than the run's; ``evaluation`` measures the models, ``out`` is where the new one goes."""

    round: int | None
    without: str | None = None
    strategy: str | None = None
    evaluation: EvaluationPolicy
    out: Path | None = None


def what_if(run: RecordedRun, question: Question) -> Iterator[str]:
    """Lines that say what round would have been made. Raises UsageError, and what ``RecordedRun.compute`` raises."""
    if question.round is None and not run.kept:
        raise UsageError(f"run {run.name} keeps the updates of no round: --keep-updates does, from then on")
    round = run.kept[-1] if question.round is None else question.round
    if round not in run.committed or round == 0:
        raise UsageError(f"run {run.name} has no committed round {round} that was made of updates")
    named = question.strategy or run.strategy(None)
    strategy, as_then = load_strategy(named), named == run.row["strategy"]
    if question.out is not None:
        check_name(question.out)
    if question.without is not None and not strategy.is_sum:
        raise UsageError(f"{printable(named)} is no sum: a client's part cannot be taken out of what it makes")
    evaluate = _evaluation(run, question.evaluation)
    made, recorded = run.compute(round, strategy, as_then=as_then), run.committed[round]
    if as_then and made.digest != recorded["model_digest"]:
        raise Changed(f"round {round}: its updates make {made.digest}, the record says {recorded['model_digest']}")
    title = f"round {round} of run {run.name}"
    if question.strategy is not None:
        title += f" by {printable(named)}"
    if question.without is not None:
        made = _less(run, round, strategy, question.without, made, as_then=as_then)
        title += f" without client {printable(question.without)}"
    committed = run.checkpoint(round)[0]
    yield f"{title}: {made.digest}; on record: {recorded['model_digest']}"
    moved, size = distance(made.state, committed), distance(committed, None)
    step = distance(committed, made.base)
    yield f"moved by {moved:.6g} (L2): {_of(moved, size)} of the model's norm, {_of(moved, step)} of the round's step"
    if evaluate is not None:
        before, after = evaluate(committed, round), evaluate(made.state, round)
        for name in before:
            yield f"{name}: {three_decimals(before[name])} on record, {three_decimals(after[name])} now"
    if question.out is not None:
        yield f"{question.out} is {write_model(made.state, question.out)}"
    yield NO_UNLEARNING


def _less(run: RecordedRun, round: int, strategy: Strategy, client: str, made: Computed, *, as_then: bool) -> Computed:
    """What is made of the round's sum less one client's part. Raises UsageError where nothing is left, or to take."""
    updates = run.updates(round)
    theirs = [row for row in updates if row["client_id"] == client]
    if not theirs:
        raise UsageError(f"client {printable(client)} has no accepted update in round {round}")
    if len(theirs) == len(updates):
        raise UsageError(f"client {printable(client)} is the only one in round {round}: without it there is none")
    for row in theirs:
        update = run.update(row, made.base)
        with strategy_errors():
            strategy.subtract(update, row["counted_size"])
    if as_then:
        with strategy_errors():
            strategy.load_state(run.checkpoint(round - 1)[1])  # which the first finish may have changed
    return finish(strategy, made.base)


def distance(one: State, other: State | None) -> float:
    """The L2 norm of the difference of all floating-point tensors, in float64; of ``one`` alone where there is no
    ``other``."""
    squares = []
    for name, tensor in one.items():
        if tensor.is_floating_point():
            flat = tensor.reshape(-1)
            base = None if other is None else other[name].reshape(-1)
            for start in range(0, flat.numel(), CHUNK):
                part = flat[start : start + CHUNK].to(torch.float64)
                squares.append(float((part if base is None else part - base[start : start + CHUNK]).square().sum()))
    return math.sqrt(math.fsum(squares))


def _of(part: float, whole: float) -> str:
    return f"{part / whole:.6g}" if whole else "0" if not part else "all"


def _evaluation(run: RecordedRun, policy: EvaluationPolicy) -> Callable[[State, int], dict[str, float]] | None:
    """What measures the run's models, if anything does. Raises UsageError."""
    from flserver.models.architectures import build

    evaluator = evaluator_for(policy, lambda: build(run.module_name(), 0))
    return evaluator.evaluate if evaluator is not None else None
