"""What becomes of updates whose node is gone. Pure, and under the exchange's lock.

Such an update has answered its model; where it counted, and is folded nowhere else, it is ``lost``. An attempt does not
end while that is being put on record, and once its end is about to be, nothing of it can be lost any more.
"""

from flserver.rounds.norms import settle
from flserver.rounds.seats import Attempt, Seat, Upload


def lose(attempt: Attempt | None, upload: Upload, *, confirmed: bool) -> bool:
    """Whether an upload counted in the attempt, and is lost now: then ``on_record`` has to follow."""
    seat = _seat(attempt, upload)
    if attempt is None or seat is None or attempt.sealed or not seat.counts:
        return False
    seat.lose()
    attempt.losing += 1
    attempt.recording += confirmed  # one that is not is being recorded already
    return True


def on_record(attempt: Attempt | None, upload: Upload) -> None:
    """That the upload is lost is on record."""
    if attempt is not None and _seat(attempt, upload) is not None:
        attempt.losing -= 1
        attempt.recording -= 1


def certain(attempt: Attempt | None, upload: Upload) -> bool:
    """Whether it is certain by now that an upload counts in the attempt; of a suspect it may be so, and not its turn to
    be folded yet."""
    seat = _seat(attempt, upload)
    if attempt is None or seat is None:
        return False
    settle(attempt)
    return seat.counts and not seat.pending


def _seat(attempt: Attempt | None, upload: Upload) -> Seat | None:
    seat = attempt.seats.get(upload.client_id) if attempt is not None else None
    return seat if seat is not None and seat.update_id == upload.update_id else None
