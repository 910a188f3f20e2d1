"""What is said where it is not the clients but the model, or an ingest node, that seems to be at fault. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence

from flserver.models.retention import MadeRound
from flserver.rounds.seats import Result, Seat


def model_at_fault(results: Sequence[Result]) -> str | None:
    """Why the model that was sent is likely at fault where an attempt had no quorum; None where it is not.

    One trainer whose numbers are no numbers is at fault itself. Where it is most of them, it is what they were sent.
    """
    answers = [result.seat for result in results if result.seat.answered]
    broken = [seat for seat in answers if (seat.rejection or "").startswith("non_finite")]
    if 2 * len(broken) <= len(answers):
        return None
    which = "all updates" if len(broken) == len(answers) else f"{len(broken)} of {len(answers)} updates"
    return f"{which} hold NaN or infinity: the model that was sent is the likely cause"


def nodes_at_fault(results: Sequence[Result]) -> str | None:
    """That ingest nodes went, with how many of the clients, where an attempt had no quorum; None where none did."""
    gone = sum(result.seat.node_gone for result in results)
    return f"{gone} of {len(results)} clients were served by an ingest node that is gone" if gone else None


def misses(reasons: Sequence[str], with_nodes: int) -> str:
    """How often attempts were no round, for which ``reasons``, and in how many of them ingest nodes went."""
    often = [f"{why} {number} time{'s' * (number > 1)}" for why, number in Counter(reasons).items()]
    gone = f"; ingest nodes were gone in {with_nodes} of these attempts: trainers may not be to blame"
    return f"{', '.join(often)}{gone if with_nodes else ''}"


def sound_before(made: Sequence[MadeRound], round: int) -> int | None:
    """The round to go back to from the model of ``round``, of those ``made`` whose checkpoints are there: the newest
    before it that was measured as a number, or, where none was, the one before it. None where there is none."""
    before = [one for one in made if one.round < round]
    # A model whose loss is NaN has an accuracy all the same: that of always saying the first class.
    by_loss = [one for one in before if one.loss is not None]
    by_accuracy = [one for one in before if one.accuracy is not None]
    return max((one.round for one in by_loss or by_accuracy or before), default=None)


def way_back(made: Sequence[MadeRound], round: int, command: Callable[[int], str]) -> str:
    """How to start anew where the model of ``round`` is at fault; ``command`` gives what does it from a round."""
    sound = sound_before(made, round)
    if sound is None:
        return f"there is no round before {round} to start anew from: try other --initial-weights, or another --seed"
    return f"to start anew from round {sound}, the last that may be sound: {command(sound)}"


def furthest(accepted: Sequence[Seat]) -> Seat:
    """The seat whose update is the furthest from the model that was sent; of several, the one of the smallest id."""
    return max(accepted, key=lambda seat: seat.norms.whole if seat.norms is not None else 0.0)
