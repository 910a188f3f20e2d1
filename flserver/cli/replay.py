"""The commands about what a model is made of: replay, descendants."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flserver.cli.common import (
    checkpoint_dir_option,
    database,
    db_option,
    format_option,
    json_option,
    raw_option,
    reader,
    run_argument,
    say_json,
)
from flserver.cli.tables import say
from flserver.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UsageError
from flserver.settings import DATASETS, EvaluationPolicy
from flserver.settings.folders import Folder

if TYPE_CHECKING:
    from flserver.audit.rounds import RecordedRun

COLUMNS = ("run_id", "name", "round", "by", "model_digest", "checkpoint", "checkpoint_deleted_at")


@click.command("replay")
@run_argument
@click.option("--round", "number", type=click.IntRange(min=1), default=None, metavar="N", help="This round alone.")
@click.option("--without", default=None, metavar="CLIENT", help="The round as if that client had not taken part in it.")
@click.option("--strategy", default=None, metavar="S", help="What another strategy would have made of the round.")
@click.option(
    "--eval-data",
    type=click.Choice(DATASETS),
    default=None,
    help="Measure the round's model and the other one on this data.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), default=None, metavar="PATH", help="Where it lies.")
@click.option(
    "--model",
    default=None,
    metavar="SPEC",
    help="The run's model where that is code of your own: it is imported only if you say so.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Write the other model to FILE.safetensors, or FILE.pt: a state_dict.",
)
@json_option
@checkpoint_dir_option
@db_option
@click.pass_context
def replay(
    ctx: click.Context,
    run: str | None,
    number: int | None,
    without: str | None,
    strategy: str | None,
    eval_data: str | None,
    data_dir: Path | None,
    model: str | None,
    out: Path | None,
    as_json: bool,
    checkpoint_dir: Folder | None,
    db: str | None,
) -> int:
    """Compute RUN's rounds again from their kept updates (--keep-updates) and compare digests with the record.

    Exit code 1 where one differs, 2 where one could not be computed. With --without or --strategy nothing is compared:
    they say what the round, the last one whose updates are kept or --round's, would have been.

    This is no unlearning: later rounds were trained on the round's model as it was, with the client in it, and what
    they learned from it stays in them. `flserver descendants` names them.
    """
    from flserver.audit.rounds import RecordedRun

    recorded = RecordedRun(reader(ctx, db), run, checkpoint_dir, database(ctx, db), model)
    if without is None and strategy in (None, recorded.row["strategy"]):
        for option, value in {"--eval-data": eval_data, "--data-dir": data_dir, "--out": out}.items():
            if value is not None:
                raise UsageError(f"{option} goes with --without or --strategy: without these no other model is made")
        return _compare(recorded, number, strategy, as_json)
    from flserver.audit.replay import Question, what_if

    evaluation = EvaluationPolicy(eval_data=eval_data, data_dir=data_dir, evaluate=None, use_cuda=False)
    question = Question(round=number, without=without, strategy=strategy, evaluation=evaluation, out=out)
    lines = what_if(recorded, question)
    if as_json:
        say_json({"run_id": recorded.row["run_id"], "lines": [*lines]})
    for line in lines:
        click.echo(line)
    return EXIT_DONE


def _compare(run: "RecordedRun", number: int | None, strategy: str | None, as_json: bool) -> int:
    """Compute rounds again and compare them; the exit code."""
    from flserver.audit.replay import replay_rounds

    found = {"holds": 0, "differs": 0, "cannot be computed": 0}
    told = []
    for finding, line in replay_rounds(run, number, strategy):
        if not as_json:
            click.echo(line if finding == "holds" else f"{finding}: {line}", err=finding != "holds")
        told.append({"finding": finding, "line": line})
        found[finding] += 1
    if not told:
        raise UsageError(f"run {run.name} keeps the updates of no round: with --keep-updates a server does")
    if as_json:
        say_json({"run_id": run.row["run_id"], "counts": found, "rounds": told})
    left_out = 0 if number is not None else sum(round > 0 for round in run.committed) - sum(found.values())
    beside = f"; the updates of {left_out} more are not kept" if left_out else ""
    if found["differs"] or found["cannot be computed"]:
        counts = ", ".join(f"{count} {finding}" for finding, count in found.items())
        click.echo(f"rounds: {counts}{beside}", err=True)
        return EXIT_FAILED if found["differs"] else EXIT_USAGE
    if not as_json:
        same = f"all {found['holds']} computed again are" if found["holds"] > 1 else "the one computed again is"
        click.echo(f"{same} as on record{beside}")
    return EXIT_DONE


@click.command("descendants")
@click.argument("what", metavar="RUN:ROUND|CLIENT")
@click.option("--client", is_flag=True, help="It is a client's id, whatever it looks like.")
@db_option
@format_option
@raw_option
@click.pass_context
def descendants(ctx: click.Context, what: str, client: bool, db: str | None, form: str, raw: bool) -> None:
    """Name every later model that rests on a round, or on an accepted update of a client, over child runs too.

    A model rests on another where it was trained on it, or on one that was. Taking a client out of one round (`flserver
    replay --without`) does not take it out of these.
    """
    from flserver.audit.descendants import descendants as found

    rows = found(reader(ctx, db), what, client=client)
    listed = [[row[name] for name in COLUMNS] for row in rows]
    say(COLUMNS, listed, form, raw=raw, nothing="no later model rests on it")
