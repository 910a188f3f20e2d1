"""What the samples of the clients invited to an attempt count for, and whose weight that is. Pure.

A client says itself how many samples it has, and one owner may have many clients. So a share is an owner's: that of a
certificate, or of an address; on this machine, where all have one address, each client is its own.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from math import floor

MOST_OF_THE_WEIGHT = 0.9  # what is warned of


@dataclass(frozen=True)
class Samples:
    """What an invited client says it has; ``owner`` is text for people."""

    client_id: str
    data_size: int
    owner: str


@dataclass(frozen=True)
class Weight:
    """A client's samples ``counted`` for the mean, those of its ``owner``; ``refusal`` says why its update cannot count
    at all, if so."""

    owner: str
    counted: int
    refusal: str | None = None


@dataclass(frozen=True)
class Heaviest:
    """The owner with the most of a round's weight: a ``share`` of it (0 to 1), by the updates of its ``clients``."""

    owner: str
    clients: tuple[str, ...]
    share: float


def weigh(invited: Sequence[Samples], share: float, *, capped: bool) -> dict[str, Weight]:
    """The weights of the clients invited, by client id.

    An owner with more than ``share`` (0 to 1) of the samples has its clients refused; with ``capped`` it counts with
    fewer samples instead, so that it has no more than ``share`` of what is counted.
    """
    owned: dict[str, list[Samples]] = {}
    for samples in invited:
        owned.setdefault(samples.owner, []).append(samples)
    sums = {owner: sum(one.data_size for one in its) for owner, its in owned.items()}
    weights: dict[str, Weight] = {}
    if capped:
        most = level(sums.values(), share) if sums else 0
        for owner, its in owned.items():
            weights |= _capped(owner, its, most)
        return weights
    total = sum(sums.values())
    for owner, its in owned.items():
        refusal = _too_heavy(owner, its, sums[owner], total, share) if sums[owner] > share * total else None
        weights |= {one.client_id: Weight(owner, one.data_size, refusal) for one in its}
    return weights


def _too_heavy(owner: str, its: Sequence[Samples], size: int, total: int, share: float) -> str:
    of_all = f"{size} of the {total} samples invited"
    if len(its) == 1:
        return f"weight_share: {of_all} is more than a share of {share:g}"
    return f"weight_share: the {len(its)} clients of {owner} have {of_all}, more than a share of {share:g}"


def _capped(owner: str, its: Sequence[Samples], most: int) -> dict[str, Weight]:
    if sum(one.data_size for one in its) <= most:
        return {one.client_id: Weight(owner, one.data_size) for one in its}
    why = f"weight_share: the {len(its)} clients of {owner} count with {most} samples in all, one each for the largest"
    counted = zip(its, shared_out([one.data_size for one in its], most), strict=True)
    return {one.client_id: Weight(owner, size, None if size else why) for one, size in counted}


def level(sums: Iterable[int], share: float) -> int:
    """How many samples an owner may count with at most, so that none has more than ``share`` of all that are counted.

    ``sums`` are the owners' samples, at least one owner's. Where there are too few owners for that share
    (share × owners < 1), all count alike, with the samples of the smallest one.
    """
    heaviest = sorted(sums, reverse=True)
    part, rest = max(Fraction(str(share)), Fraction(1, len(heaviest))), sum(heaviest)
    for lowered, size in enumerate(heaviest):
        # So many are lowered to the level, the others have `rest` as it is: level = part × (lowered × level + rest).
        found = part * rest / (1 - lowered * part)
        if size <= found:
            return floor(found)
        rest -= size
    raise AssertionError("the smallest owner is never above the level")


def shared_out(sizes: Sequence[int], most: int) -> list[int]:
    """Integers in proportion to ``sizes``, which have a greater sum, none above its own, that add up to ``most``.

    Each is at least 1, where there are enough; else the largest are 1, and the others 0.
    """
    least = len(sizes)
    if most < least:
        largest = sorted(range(least), key=lambda place: -sizes[place])[:most]
        return [int(place in largest) for place in range(least)]
    shared = _in_proportion(sizes, most)
    return shared if all(shared) else [1 + part for part in _in_proportion([size - 1 for size in sizes], most - least)]


def _in_proportion(sizes: Sequence[int], most: int) -> list[int]:
    """Each is less than 1 away from its exact part, and all of them add up."""
    total = sum(sizes)
    bounds = [most * upto // total for upto in accumulate(sizes, initial=0)]
    return [after - before for before, after in pairwise(bounds)]


def heaviest(accepted: Collection[tuple[str, Weight]]) -> Heaviest | None:
    """Who has more than MOST_OF_THE_WEIGHT of the updates accepted, by client id; None where nobody has, and where one
    client alone took part."""
    counted: dict[str, int] = {}
    for _, weight in accepted:
        counted[weight.owner] = counted.get(weight.owner, 0) + weight.counted
    owner = max(counted, key=lambda owner: counted[owner], default=None)
    if owner is None or len(accepted) == 1 or counted[owner] <= MOST_OF_THE_WEIGHT * sum(counted.values()):
        return None
    clients = tuple(client_id for client_id, weight in accepted if weight.owner == owner)
    return Heaviest(owner, clients, counted[owner] / sum(counted.values()))
