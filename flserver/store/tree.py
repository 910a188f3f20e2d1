"""The tree over the events' digests (``heads.tree``), as the database has it.

Its leaves are in ``events``. Of its other nodes ``tree_nodes`` has those of every eighth level, a row for 256 events;
what is between two kept levels is computed from at most 255 rows each.
"""

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import Connection, text

from flserver.errors import StoreError
from flserver.heads.tree import STRIDE, Frontier, Node, frontier, leaf_hash, node_hash
from flserver.store import tables
from flserver.store.prepared import inserting

MOST_FOUND = 4096  # nodes that many proofs have in common, each computed once
ALGORITHM = "sha256:"


def leaf(digest: str) -> bytes:
    """What the leaf of an event with that ``digest`` (``sha256:hex``) holds. Raises ValueError where it is none."""
    return bytes.fromhex(digest.removeprefix(ALGORITHM))


def written(found: bytes) -> str:
    """A hash as it stands in the tables."""
    return ALGORITHM + found.hex()


def keep(connection: Connection, nodes: Sequence[Node]) -> None:
    """Write nodes that are to be kept, in the transaction that writes their events."""
    rows = [{"level": node.level, "place": node.place, "hash": written(node.hash)} for node in nodes]
    # Where somebody cut the chain off, what stood over the rest is there still.
    inserting(tables.tree_nodes, or_update=True).run(connection, rows)


def frontier_of(connection: Connection) -> Frontier:
    """The tree over all events."""
    nodes = StoredNodes(connection)
    return frontier(nodes, nodes.size)


class StoredNodes:
    """Implements ``heads.tree.Nodes``: complete subtrees of the events that ``connection`` sees.

    Raises StoreError where a row is missing, or holds no digest.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found = lru_cache(MOST_FOUND)(self._computed)

    def __call__(self, level: int, place: int) -> bytes:
        return self._found(level, place)

    @property
    def size(self) -> int:
        """Of the tree: the number of events."""
        return int(self._connection.execute(text("SELECT COALESCE(MAX(seq), 0) FROM events")).scalar_one())

    def _computed(self, level: int, place: int) -> bytes:
        below = level % STRIDE
        hashes = self._kept(level - below, place << below, 1 << below)
        while len(hashes) > 1:
            hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
        return hashes[0]

    def _kept(self, level: int, begin: int, count: int) -> list[bytes]:
        """Neighbours on a level that is kept."""
        if level:
            query = (
                "SELECT hash FROM tree_nodes WHERE level = :level AND place >= :begin AND place < :end ORDER BY place"
            )
        else:
            query = "SELECT digest FROM events WHERE seq > :begin AND seq <= :end ORDER BY seq"
        rows = self._connection.execute(text(query), {"level": level, "begin": begin, "end": begin + count}).scalars()
        try:
            found = [leaf(row) for row in rows]
        except ValueError as error:
            raise StoreError("the tree over the events is damaged: flserver verify says where") from error
        if len(found) != count:
            raise StoreError("the tree over the events has gaps: flserver verify says where")
        return found if level else [leaf_hash(one) for one in found]
