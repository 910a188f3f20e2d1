"""What ``/healthz`` says, and the rule behind its status code."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flserver.clock import Deadline, monotonic
from flserver.events.words import Awaited, RunState
from flserver.text import json_text

GRACE = 30.0  # seconds: aggregating, evaluating and committing come after the deadline for updates


@dataclass(frozen=True, kw_only=True)
class Health:
    """The server at one moment. None is what is not known yet, or not there.

    ``round`` is the one that is being made, else the last committed one. ``deadline`` is the moment by which the
    coordinator will have moved on; None where it waits without one. ``awaited`` is what clients are waited for to do,
    ``answered`` have done it, and so many more are ``missing``; ``seconds_left`` are left for it, of the join
    window too. ``sequence`` and
    ``digest`` are the head of the audit chain, ``queue_length`` the events not yet committed. ``nodes`` are how many
    ingest nodes have begun and are there, of how many; that some are gone is no reason to restart anything: the server
    has others begin. One that ``stands_by`` has no run yet, and ``run_id`` is the one it waits for.
    """

    run_id: str | None
    state: RunState | None
    round: int | None
    deadline: Deadline | None
    awaited: Awaited | None
    answered: int
    missing: int
    seconds_left: float | None
    writer_alive: bool
    accepting: bool
    sequence: int
    digest: str | None
    queue_length: int
    nodes: tuple[int, int] | None = None
    stands_by: bool = False

    @classmethod
    def standing_by(cls, run_id: str | None = None) -> "Health":
        """That of a server which waits for another one's run, as soon as there is one ``run_id``."""
        nothing: dict[str, Any] = dict.fromkeys(("state", "round", "deadline", "awaited", "seconds_left"))
        nothing |= {"answered": 0, "missing": 0, "sequence": 0, "digest": None, "queue_length": 0}
        return cls(run_id=run_id, **nothing, writer_alive=True, accepting=True, stands_by=True)

    def reasons(self) -> list[str]:
        """Why the server is unhealthy; empty while it is well."""
        found = []
        if not self.writer_alive:
            found.append("the audit writer is not running")
        if not self.accepting:
            found.append("no connections are accepted any more")
        overdue = monotonic() - self.deadline.at if self.deadline else 0.0
        if overdue > GRACE:
            found.append(f"the coordinator is {overdue:.0f} s past its deadline")
        return found

    def response(self) -> tuple[HTTPStatus, bytes]:
        """The status code and the JSON body of ``/healthz``."""
        reasons, nodes = self.reasons(), self.nodes
        body = {
            "status": "unhealthy" if reasons else "standing by" if self.stands_by else "ok",
            "run_id": self.run_id,
            "state": self.state,
            "round": self.round,
            "waiting": {
                "for": self.awaited,
                "answered": self.answered,
                "missing": self.missing,
                "seconds_left": self.seconds_left,
            },
            "nodes": None if nodes is None else {"serving": nodes[0], "of": nodes[1]},
            "audit": {"sequence": self.sequence, "digest": self.digest, "queue_length": self.queue_length},
            "reasons": reasons,
        }
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return status, json_text(body).encode() + b"\n"
