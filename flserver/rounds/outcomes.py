"""What is put on record of an attempt's seats: who answered, who did not, and what their clients measured. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flserver import events
from flserver.events import ClientOutcome, KeptUpdate, RoundMetric
from flserver.rounds.seats import Attempt, Result, Seat
from flserver.wire.messages import Measurement

CLIENT_MEANS = ("loss", "accuracy")
LARGEST_LOSS = 1e3  # times the clients' median: beyond it nobody measured what the others measured
ORDINARY_LOSS = 1.0  # nats: the others may all be near 0
LARGEST_SUMMED = 1e100  # sums of greater numbers may leave float64


@dataclass(frozen=True, kw_only=True)
class AttemptFacts:
    """What is on record of how a committed attempt went. The defaults are round 0's, which trains nobody.

    ``clients`` were sent the model, ``data_size`` are the samples of the accepted that count; durations are seconds.
    """

    clients: int = 0
    data_size: int = 0
    broadcast_seconds: float | None = None
    wait_seconds: float | None = None
    aggregate_seconds: float | None = None
    client_means: tuple[RoundMetric, ...] = ()
    outcomes: tuple[ClientOutcome, ...] = ()
    kept: tuple[KeptUpdate, ...] = ()


def client_means(round: int, measured: Sequence[tuple[int, tuple[Measurement, ...]]]) -> tuple[RoundMetric, ...]:
    """Means over the clients of what they measured on the model they received, ``round``'s.

    ``measured`` pairs each client's counted samples, which are its weight, with what it says it measured. What cannot
    be so is in no mean: an accuracy outside 0 to 1, a loss that is not finite, or far from the others'.
    """
    means = []
    for name in CLIENT_MEANS:
        said = [
            (n, m.value) for n, metrics in measured for m in metrics if (m.name, m.measured_on) == (name, "received")
        ]
        least, most = (0.0, 1.0) if name == "accuracy" else _credible_losses([value for _, value in said])
        pairs = [(n, value) for n, value in said if least <= value <= most]  # which NaN is not
        if pairs:
            total = sum(n for n, _ in pairs)
            mean = math.fsum(n / total * value for n, value in pairs)
            means.append(RoundMetric(round=round, name=name, value=mean, source="clients"))
    return tuple(means)


def _credible_losses(losses: Sequence[float]) -> tuple[float, float]:
    """The least and the most that a loss can be beside the others': the lower median is a client's that is there."""
    sizes = sorted(abs(loss) for loss in losses if math.isfinite(loss))
    median = sizes[(len(sizes) - 1) // 2] if sizes else 0.0
    most = min(max(LARGEST_LOSS * median, ORDINARY_LOSS), LARGEST_SUMMED)
    return -most, most


def aborted(
    attempt: Attempt, reason: str, ended: float, results: Sequence[Result], detail: str | None = None
) -> events.AttemptAborted:
    """The end of an attempt without a round, at ``ended`` (monotonic)."""
    broadcast_seconds, wait_seconds = phases(attempt, ended)
    return events.AttemptAborted(
        round=attempt.round,
        attempt=attempt.number,
        clients=sent_to(results),
        reason=reason,
        seconds=ended - attempt.started_at,
        broadcast_seconds=broadcast_seconds,
        wait_seconds=wait_seconds,
        outcomes=outcomes(results, committed=False),
        detail=detail,
    )


def settled(attempt: Attempt, suspects: Sequence[Seat]) -> Iterator[events.SuspectRejected | events.SuspectsCount]:
    """What was decided at last on those whose updates were suspect."""
    for seat in suspects:
        if seat.decision == "rejected":
            assert seat.update_id is not None
            assert seat.suspicion is not None
            yield events.SuspectRejected(
                update_id=seat.update_id,
                client_id=seat.client_id,
                round=attempt.round,
                attempt=attempt.number,
                reason=seat.suspicion,
            )
    counted = [seat for seat in suspects if seat.counts]
    if counted:
        yield events.SuspectsCount(
            round=attempt.round,
            attempt=attempt.number,
            clients=tuple(seat.client_id for seat in counted),
            there=attempt.there,
            reason=str(counted[0].suspicion),
        )


def phases(attempt: Attempt, ended: float) -> tuple[float | None, float | None]:
    """Seconds from an attempt's start to the last model fully sent, and from then to its end; None where none was."""
    sent = [seat.sent.fully_sent_at for seat in attempt.seats.values() if seat.sent and seat.sent.fully_sent_at]
    if not sent:
        return None, None
    last = min(max(sent), ended)
    return last - attempt.started_at, ended - last


def sent_to(results: Sequence[Result]) -> int:
    """How many clients the whole model was handed over to."""
    return sum(result.seat.sent is not None and result.seat.sent.handed_over for result in results)


def outcomes(results: Sequence[Result], *, committed: bool) -> tuple[ClientOutcome, ...]:
    """What is put on record of each seat; weights only where the attempt is committed."""
    total = sum(result.seat.counted_size for result in results if result.seat.counts)
    return tuple(_outcome(result, total if committed else None) for result in results)


def _outcome(result: Result, total: int | None) -> ClientOutcome:
    seat = result.seat
    handed_over = seat.sent.handed_over_at if seat.sent is not None else None
    return ClientOutcome(
        client_id=seat.client_id,
        participation=result.participation,
        update_id=seat.update_id if seat.counts else None,
        weight=seat.counted_size / total if seat.counts and total is not None else None,
        seconds=None if seat.answered_at is None or handed_over is None else seat.answered_at - handed_over,
    )
