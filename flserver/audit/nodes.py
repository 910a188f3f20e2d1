"""What rounds say of their nodes' events, held against the events."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flserver.store.node_chain import NOTHING, Owners, follow, link
from flserver.store.purge import PURGEABLE_NAMES
from flserver.text import printable


@dataclass
class _Node:
    """One node's events since a round named ``count`` of them, with their ``head``; in all it ``gave`` so many."""

    count: int = 0
    head: str = NOTHING
    links: list[str] = field(default_factory=list)
    gave: int = 0

    def add(self, link: str) -> None:
        """One more."""
        self.links.append(link)
        self.gave += 1

    def problem(self, count: int, head: str) -> str | None:
        """What is wrong where a round says that there are so many, with that head; from here on it is believed."""
        more = count - self.count
        found, here = self.head, len(self.links)
        for one in self.links[: max(0, more)]:
            found = follow(found, one)
        self.count, self.head, self.links = count, head, self.links[max(0, more) :]
        if more < 0 or here < more:
            return f"{more} more than the round before named, and the record has {here}"
        return None if found == head else f"with the head {head}, and by the record it is {found}"


class Nodes:
    """Takes the events of a record in their order. ``problems`` are what does not hold, ``held`` counts what rounds
    name and holds, ``believed`` what cannot be held against anything: where a payload was purged nobody knows whose it
    was. ``unread`` counts events that cannot be read; of their server process nothing is known from there on."""

    def __init__(self) -> None:
        self._owners: dict[int, Owners] = defaultdict(Owners)
        self._nodes: dict[tuple[int, str], _Node] = defaultdict(_Node)
        self._updates: dict[int, dict[int, tuple[str, int]]] = defaultdict(dict)  # which event of which node each is
        self._purged: set[int] = set()
        self._unread: set[int] = set()
        self.problems: list[str] = []
        self.held = self.believed = self.unread = 0

    def take(self, row: Mapping[str, Any]) -> None:
        """The next event, as its row has it."""
        process, kind, payload = row["process_id"], row["type"], row["payload"]
        try:
            if payload is not None:
                self._follow(process, kind, payload)
            elif kind in PURGEABLE_NAMES:
                self._purged.add(process)
        except Exception:  # what a payload holds can fail anywhere, also where the chain has it so: no purge covers it
            self._unread.add(process)
            self.unread += 1

    def _follow(self, process: int, kind: str, payload: str) -> None:
        if kind == "RoundCommitted":
            self._committed(process, json.loads(payload))
        elif kind == "AttemptAborted":
            self._updates[process].clear()
        elif (node := self._owners[process].node_of(kind, payload)) is not None:
            self._nodes[process, node].add(link(kind, payload))
            if kind == "UpdateReceived":
                self._updates[process][json.loads(payload)["update_id"]] = node, self._nodes[process, node].gave

    def _committed(self, process: int, round: Mapping[str, Any]) -> None:
        where, wrong = f"round {round['round']}, attempt {round['attempt']}:", set[str]()
        for said in round.get("nodes", ()):
            problem = self._nodes[process, said["node"]].problem(said["events"], said["head"])
            if process in self._unread:
                continue
            if process in self._purged:
                self.believed += 1
            elif problem is None:
                self.held += 1
            else:
                wrong.add(said["node"])
                self.problems.append(f"{where} {printable(said['node'])} gave {said['events']} events, {problem}")
        if process not in self._purged | self._unread:
            self.problems += [f"{where} {problem}" for problem in self._not_named(process, round, wrong)]
        self._updates[process].clear()

    def _not_named(self, process: int, round: Mapping[str, Any], wrong: Collection[str]) -> Iterator[str]:
        """What is in the round and came by nodes, in no event that it or an earlier one names; nothing more of what is
        ``wrong`` already. Whatever else a node gives may come between the naming and the event that has it."""
        counted: dict[str, list[int]] = defaultdict(list)
        for outcome in round.get("outcomes", ()):
            node, number = self._updates[process].get(outcome.get("update_id"), ("", 0))
            if number > self._nodes[process, node].count and node not in wrong:
                counted[node].append(outcome["update_id"])
        for node, updates in counted.items():
            ids = ", ".join(map(str, updates))
            yield f"of {printable(node)} it names no events in which it gave the updates {ids}, which are in the model"


def check_nodes(rows: Iterable[Mapping[str, Any]], *, covered: bool) -> Iterator[tuple[bool | None, str]]:
    """Lines that say what holds (True), what does not (False), and what is not known (None), of all events of a record
    in their order. ``covered`` says whether purges on record answer for all payloads that are gone: then what is
    believed for want of them holds."""
    nodes = Nodes()
    for row in rows:
        nodes.take(row)
    yield from ((False, problem) for problem in nodes.problems)
    if nodes.unread:
        line = f"{nodes.unread} events of nodes, or of rounds that name some, cannot be read: what rounds of their"
        yield None, f"{line} server process name is not known from there on"
    if nodes.believed:
        line = f"what rounds name of nodes' events is believed {nodes.believed} times: payloads are gone"
        yield True if covered else None, line
    if nodes.held and not nodes.problems:
        yield True, f"the events of nodes are those that rounds name, {nodes.held} times"
