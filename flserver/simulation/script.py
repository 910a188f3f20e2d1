"""What each trainer of a simulated fleet does, as data: made of a seed, written and read as JSON lines. Pure.

A script has a trainer a line, so that whoever has some of the lines can play those:

    {"id": "17", "samples": 103, "seed": 4242, "lag": 0.8, "lie": "nan",
     "drop_out": {"round": 3, "when": "during", "back": 2}}

``id`` and ``samples`` are what it registers with, ``seed`` is what the small change of its updates is made of. ``lag``
are seconds that it lets pass before each answer. ``drop_out``: in that round it leaves ``before`` its answer, or
``during`` it, and registers again so that it takes part ``back`` rounds later; null is never. ``lie`` is one of LIES;
but for ``samples`` it is told with every answer.

A round is counted by the models that the fleet is sent: it is the run's where the fleet is there from the beginning and
no attempt is aborted.

Everything is drawn with SHA-256, so that the same seed gives the same script with every machine and Python.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from flserver.errors import UsageError

Lie = Literal["nan", "huge", "shape", "duplicate", "stale", "samples"]
"""NaN in an update; a number of 10³⁰; a tensor of another shape; the same update twice; in every round that of the
first; and more samples than there are, when it registers."""
LIES: Final[tuple[Lie, ...]] = get_args(Lie)
When = Literal["before", "during"]

FEWEST_SAMPLES, MOST_SAMPLES = 50, 500
LONGEST_ABSENCE = 3  # rounds
ABSURD_SAMPLES = 2**40
_DROP_OUTS: Final[tuple[tuple[When, bool], ...]] = (
    ("before", True),
    ("during", False),
    ("during", True),
    ("before", False),
)
"""When, and whether it comes back: in turn, so that a few have all kinds."""

What = Literal[
    "accepted", "rejected non_finite", "rejected norm", "rejected shape", "duplicate", "dropped", "came back", "refused"
]
"""What comes of what a trainer does, as the record has it: decisions, the kind of a rejection with them; rounds left;
registrations anew, and those that were refused."""
OF_A_LIE: Final[Mapping[Lie, What]] = {
    "nan": "rejected non_finite",
    "huge": "rejected norm",
    "shape": "rejected shape",
}
"""What comes of an answer with it; of the others it is ``accepted``, and of the second copy ``duplicate``."""

Counts = dict[str, Counter[str]]
"""How often what came of a client, by its id."""


@dataclass(frozen=True, kw_only=True)
class DropOut:
    """Leaves in ``round``, and takes part again ``back`` rounds later (1: in the next one), or never."""

    round: int
    when: When
    back: int | None = None

    @property
    def returns_in(self) -> int | None:
        """The round while which it registers again."""
        return None if self.back is None else self.round + self.back - 1


@dataclass(frozen=True, kw_only=True)
class Member:
    """One trainer; the module's text says what each field means."""

    id: str
    samples: int
    seed: int
    lag: float = 0.0
    lie: Lie | None = None
    drop_out: DropOut | None = None

    @property
    def takes_part(self) -> bool:
        """Whether a server lets it register."""
        return self.lie != "samples"

    def leaves_in(self, round: int) -> bool:
        return self.drop_out is not None and self.drop_out.round == round

    def answers_in(self, round: int) -> bool:
        """Whether it is there in ``round``, and answers."""
        out = self.drop_out
        if not self.takes_part or out is None or round < out.round:
            return self.takes_part
        return out.back is not None and round >= out.round + out.back


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Which shares of the trainers, 0 to 1, drop out, lag (for up to ``lag_seconds``) and lie. One may do several."""

    drop_out: float = 0.0
    lag: float = 0.0
    lie: float = 0.0
    lag_seconds: float = 1.0


def draw(*what: object) -> float:
    """A number from 0 to 1, below 1, that follows from ``what``."""
    digest = hashlib.sha256("|".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def make(trainers: int, rounds: int, seed: int, shares: Shares) -> list[Member]:
    """A script for so many trainers, with the ids 1, 2, …; who drops out does so once, in one of the ``rounds``."""
    ids = [str(number) for number in range(1, trainers + 1)]
    leaving, lagging, lying = (
        _chosen(ids, seed, trait, share)
        for trait, share in (("drop-out", shares.drop_out), ("lag", shares.lag), ("lie", shares.lie))
    )
    members = []
    for one in ids:
        out = None
        if one in leaving:
            when, returns = _DROP_OUTS[leaving[one] % len(_DROP_OUTS)]
            out = DropOut(
                round=1 + int(draw(seed, "leaves", one) * rounds),
                when=when,
                back=1 + int(draw(seed, "returns", one) * LONGEST_ABSENCE) if returns else None,
            )
        members.append(
            Member(
                id=one,
                samples=FEWEST_SAMPLES + int(draw(seed, "samples", one) * (MOST_SAMPLES - FEWEST_SAMPLES + 1)),
                seed=int(draw(seed, "seed", one) * 2**48),
                lag=round(draw(seed, "seconds", one) * shares.lag_seconds, 3) if one in lagging else 0.0,
                lie=LIES[lying[one] % len(LIES)] if one in lying else None,
                drop_out=out,
            )
        )
    return members


def _chosen(ids: Sequence[str], seed: int, trait: str, share: float) -> dict[str, int]:
    """That share of the ids, each with its place among them."""
    order = sorted(ids, key=lambda one: (draw(seed, trait, one), one))
    return {one: place for place, one in enumerate(order[: round(share * len(ids))])}


def part_of(members: Sequence[Member], number: int, parts: int) -> list[Member]:
    """Part ``number``, from 1 on, of so many ``parts``."""
    return list(members[number - 1 :: parts])


def expected(members: Iterable[Member], rounds: int) -> Counts:
    """What is to come of each in so many rounds, where no deadline decides."""
    return {one.id: Counter(_of(one, rounds)) for one in members}


def _of(member: Member, rounds: int) -> Iterable[What]:
    if not member.takes_part:
        yield "refused"
    for number in range(1, rounds + 1):
        if member.answers_in(number):
            yield from answer_counts(member)
        elif member.takes_part and member.leaves_in(number):
            yield "dropped"
        if member.takes_part and member.drop_out is not None and member.drop_out.returns_in == number:
            yield "came back"


def answer_counts(member: Member) -> tuple[What, ...]:
    """What comes of one answer."""
    if member.lie == "duplicate":
        return ("accepted", "duplicate")
    return (OF_A_LIE.get(member.lie, "accepted") if member.lie else "accepted",)


def to_line(member: Member) -> str:
    """A line of a script, without its end. What is as usual is left out."""
    usual = {"lag": 0.0, "lie": None, "drop_out": None}
    return json.dumps({key: value for key, value in asdict(member).items() if usual.get(key, value is None) != value})


def from_line(line: str) -> Member:
    """The trainer of a line. Raises UsageError, with a sentence that says what is wrong."""
    try:
        fields = json.loads(line)
        return _member(fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"not a trainer of a script: {why}") from error


def _member(fields: dict[str, Any]) -> Member:
    unknown = set(fields) - set(Member.__dataclass_fields__)
    if unknown:
        raise ValueError(f"there is no {', '.join(sorted(unknown))}")
    lie, out = fields.get("lie"), fields.get("drop_out")
    if lie is not None and lie not in LIES:
        raise ValueError(f"lie {lie!r} is none of {', '.join(LIES)}")
    member = Member(
        id=_text(fields["id"]),
        samples=_whole("samples", fields["samples"], 1),
        seed=_whole("seed", fields["seed"], 0),
        lag=float(fields.get("lag", 0.0)),
        lie=lie,
        drop_out=None if out is None else _drop_out(out),
    )
    if not 0 <= member.lag < 1e6:
        raise ValueError(f"lag {member.lag} is no number of seconds")
    return member


def _drop_out(fields: dict[str, Any]) -> DropOut:
    if fields["when"] not in get_args(When):
        raise ValueError(f"when {fields['when']!r} is neither before nor during")
    back = fields.get("back")
    return DropOut(
        round=_whole("round", fields["round"], 1),
        when=fields["when"],
        back=None if back is None else _whole("back", back, 1),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"id {value!r} is no text")
    return value


def _whole(name: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} {value!r} is no whole number from {least} on")
    return value


def to_text(members: Iterable[Member]) -> str:
    return "".join(f"{to_line(member)}\n" for member in members)


def from_text(text: str, name: str) -> list[Member]:
    """The trainers of a script; ``name`` is said in errors. Raises UsageError."""
    members: dict[str, Member] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            member = from_line(line)
        except UsageError as error:
            raise UsageError(f"{name}, line {number}: {error}") from error
        if members.setdefault(member.id, member) is not member:
            raise UsageError(f"{name}, line {number}: there is a trainer {member.id!r} above")
    if not members:
        raise UsageError(f"{name} has no trainers")
    return [*members.values()]
