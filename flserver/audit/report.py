"""What a verification says, line by line and as JSON."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flserver.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from flserver.text import printable

Check = Literal["schema", "chain", "tables", "sums", "purges", "tree", "checkpoints", "updates", "head", "nodes"]
Outcome = Literal["holds", "broken", "unknown"]
VERDICTS: Mapping[Outcome, str] = {"holds": "holds", "broken": "does not hold", "unknown": "cannot be told"}
EXIT_CODES: Mapping[Outcome, int] = {"holds": EXIT_DONE, "broken": EXIT_FAILED, "unknown": EXIT_USAGE}

IN_A_LINE: Mapping[Check, str] = {
    "checkpoints": "checkpoints with the digest on record",
    "updates": "kept updates with the digest on record",
}
"""What there is one of for each round, or each update: of those that hold people are told how many."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that holds, does not, or cannot be told, as a line for people; ``where`` says what it is about, for
    programs. ``count`` is how many it stands for: where there are too many for a line each, the last stands for the
    rest."""

    check: Check
    outcome: Outcome
    line: str
    where: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1


def called(runs: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
    """What each run is called in a line, by its run_id: its name, and where several have that, as a child has its
    parent's, its run_id too."""
    names = {str(run["run_id"]): printable(str(run["name"])) for run in runs}
    several = Counter(names.values())
    return {of: name if several[name] == 1 else f"{name} ({printable(of)})" for of, name in names.items()}


def spoils(finding: Finding) -> bool:
    """Whether nothing is made of a record for this: all that does not hold or cannot be told, but a purge on record."""
    return finding.outcome != "holds" and finding.check != "purges"


@dataclass
class Report:
    """What was found. ``add`` takes findings as they come."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[Outcome, Counter[str]] = field(default_factory=lambda: {outcome: Counter() for outcome in VERDICTS})

    def add(self, finding: Finding) -> None:
        self.counts[finding.outcome][finding.check] += finding.count
        if finding.outcome != "holds":
            self.findings.append(finding)

    @property
    def outcome(self) -> Outcome:
        """Broken where one thing is, else unknown where one thing is, else holds."""
        return "broken" if self.counts["broken"] else "unknown" if self.counts["unknown"] else "holds"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    @property
    def summed(self) -> list[str]:
        """A line for each check of IN_A_LINE, with how many hold."""
        return [f"{told}: {count}" for check, told in IN_A_LINE.items() if (count := self.counts["holds"][check])]

    @property
    def last_line(self) -> str:
        counted = {outcome: counter.total() for outcome, counter in self.counts.items()}
        total = sum(counted.values())
        do = "does" if counted["broken"] == 1 else "do"
        parts = [f"{counted['broken']} of {total} checks {do} not hold"] if counted["broken"] else []
        parts += [f"{counted['unknown']} of {total} checks cannot be told"] if counted["unknown"] else []
        return ", ".join(parts) or f"all {total} checks hold"

    def as_json(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """``facts`` about the record, then the verdict, what was counted by check, and what does not hold or cannot be
        told."""
        return {
            **facts,
            "verdict": VERDICTS[self.outcome],
            "exit_code": self.exit_code,
            "counts": {VERDICTS[outcome]: dict(counter) for outcome, counter in self.counts.items()},
            "findings": [
                {
                    "check": finding.check,
                    "verdict": VERDICTS[finding.outcome],
                    "count": finding.count,
                    "line": finding.line,
                    **finding.where,
                }
                for finding in self.findings
            ],
        }


def limited(findings: Iterable[Finding], most: int, what: str) -> Iterable[Finding]:
    """The first ``most`` of the findings, which are all of one check and outcome; then one for all the rest."""
    rest: Finding | None = None
    count = 0
    for number, finding in enumerate(findings):
        if number < most:
            yield finding
        else:
            rest, count = finding, count + 1
    if rest is not None:
        line = f"… and {count} more in {what}"
        yield Finding(check=rest.check, outcome=rest.outcome, line=line, count=count)
