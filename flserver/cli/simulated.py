"""What is said of a simulated fleet: its rounds as they end, and what came of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from flserver.cli.common import say_json
from flserver.cli.tables import say
from flserver.errors import EXIT_DONE, EXIT_FAILED
from flserver.text import printable, three_decimals

if TYPE_CHECKING:
    from flserver.simulation.fleet import Fleet, Outcome, Round
    from flserver.simulation.outcome import Comparison


@dataclass(frozen=True)
class Final:
    """The run's last model, and what was measured of it."""

    digest: str
    loss: float | None
    accuracy: float | None


def follow(players: "Fleet", as_json: bool) -> "Outcome":
    """Say each round as it ends."""
    from flserver.simulation.fleet import Round

    for told in players.follow():
        if not isinstance(told, Round):
            return told
        seconds = max(told.seconds, 1e-9)
        note(
            as_json,
            f"round {told.number}: {told.seconds:.2f} s, {told.updates:,} updates, "
            f"{told.updates / seconds:,.0f} updates/s, {told.bytes / seconds / 1e6:,.1f} MB/s",
        )
    raise AssertionError("the last thing that is told is the outcome")


def note(as_json: bool, text: str) -> None:
    """Say what is no result; beside JSON it goes to standard error."""
    click.echo(text, err=as_json)


def tell(found: "Outcome", compared: "Comparison", final: Final | None, as_json: bool) -> int:
    differences = [*compared.differences(), *_notes(found)]
    if as_json:
        rows = [dict(zip(("what", "scripted", "done", "recorded"), row, strict=True)) for row in compared.rows]
        model: dict[str, str | float | None] = {"final_digest": None, "loss": None, "accuracy": None}
        model |= {} if final is None else {"final_digest": final.digest, "loss": final.loss, "accuracy": final.accuracy}
        told = {"run": found.run, **model, "rounds": found.rounds, "what": rows, "differs": differences}
        say_json(told, line=True)
    else:
        click.echo(_throughput(found.rounds))
        say(("what came of it", "scripted", "trainers", "record"), compared.rows, "table")
        if compared.recorded is None:
            click.echo("--db FILE, where the server's record is on this machine, shows that beside it")
        if final is not None:
            measured = (("loss", final.loss), ("accuracy", final.accuracy))
            numbers = [f", {name} {three_decimals(value)}" for name, value in measured if value is not None]
            click.echo(f"run {found.run}, final model {final.digest}{''.join(numbers)}")
        click.echo("as scripted" if not differences else "not as scripted:")
        for line in differences:
            click.echo(f"  {line}")
    return EXIT_FAILED if differences else EXIT_DONE


def _throughput(rounds: "Sequence[Round]") -> str:
    seconds = sum(one.seconds for one in rounds)
    if not rounds or seconds <= 0:
        return "no round was made"
    updates, moved = sum(one.updates for one in rounds), sum(one.bytes for one in rounds)
    made = f"{len(rounds)} round{'s' * (len(rounds) > 1)} in {seconds:.1f} s: {seconds / len(rounds):.2f} s a round"
    return f"{made}, {updates:,} updates, {updates / seconds:,.0f} updates/s, {moved / seconds / 1e6:,.1f} MB/s"


def _notes(found: "Outcome") -> Iterator[str]:
    for text, count in found.notes.most_common():
        yield f"{count} × {printable(text)}" if count > 1 else printable(text)
