"""The tree over the events, and every signed head, held against the chain."""

from collections.abc import Iterator, Mapping
from typing import Any

from flserver.errors import HeadError
from flserver.heads.note import Checkpoint, Note
from flserver.heads.tree import Frontier, Node
from flserver.store.tree import leaf, written
from flserver.store.tree_reader import TreeReader

PAGE = 1000  # events in memory at once


def check(reader: TreeReader) -> Iterator[tuple[bool, str]]:
    """Lines that say what holds (True) and what does not (False): the tree's nodes, then the heads.

    The events' digests are taken as they stand: whether they are the events' is the chain's matter. So is whether a
    head's row is its event's. The tree is computed anew, in one pass and in memory for a page of events and the heads.
    A head's signature is not checked: its key stands in the same record, and whoever changes that signs anew.
    """
    heads = reader.heads()
    kept = {(row["level"], row["place"]): row["hash"] for row in reader.tree_nodes()}
    count, broken = len(kept), list[str]()
    tree, due = Frontier(), 0
    for digests in reader.digests(PAGE):
        try:
            leaves = [leaf(digest) for digest in digests]
        except ValueError:
            yield False, f"the tree cannot be checked: of the events after {tree.size}, one has no digest"
            return
        while due < len(heads) and heads[due]["size"] <= tree.size + len(leaves):
            there = heads[due]["size"] - tree.size
            if there > 0:
                tree, made = tree.extended(leaves[:there])
                leaves = leaves[there:]
                broken += _differences(made, kept)
            broken += _head(heads[due], tree)
            due += 1
        tree, made = tree.extended(leaves)
        broken += _differences(made, kept)
    broken += [f"head of {row['size']} events: there are {tree.size}" for row in heads[due:]]
    broken += [f"tree_nodes level {level} place {place}: there are not so many events" for level, place in kept]
    yield from ((False, line) for line in broken)
    if not broken:
        root = written(tree.root)
        yield True, f"{count} nodes of the tree over {tree.size} events, {len(heads)} signed heads: root {root}"


def _differences(made: list[Node], kept: dict[tuple[int, int], str]) -> Iterator[str]:
    """What the table says otherwise of nodes; it has said then what it has to say of them."""
    for node in made:
        found = kept.pop((node.level, node.place), None)
        if found != written(node.hash):
            is_now = "is missing" if found is None else f"is {found}"
            yield f"tree_nodes level {node.level} place {node.place}: {is_now}, and {written(node.hash)} by the events"


def _head(row: Mapping[str, Any], tree: Frontier) -> Iterator[str]:
    where = f"head of {row['size']} events (event {row['event_seq']})"
    if row["size"] != tree.size:  # there are two of one size, or they are not in order
        yield f"{where}: stands behind one of {tree.size}"
        return
    if row["root"] != written(tree.root):
        yield f"{where}: its root is {row['root']}, and {written(tree.root)} by the events"
    try:
        signed = Checkpoint.parse(Note.parse(row["note"]).text)
    except HeadError as error:
        yield f"{where}: what was signed cannot be read: {error}"
        return
    if (signed.size, written(signed.root)) != (row["size"], row["root"]):
        yield f"{where}: what was signed is a head of {signed.size} events with the root {written(signed.root)}"
