"""The Merkle tree of RFC 6962 §2.1 (SHA-256): pure functions of hashes, 32 bytes each.

A leaf is the digest of an event, the first event's at place 0. The event's payload is not in it, so that a purge
changes no leaf. A complete subtree is named by its ``level`` (it has 2**level leaves) and its ``place`` among those of
its level; such a hash never changes once its leaves are there, and every root and proof is made of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from flserver.errors import HeadError

STRIDE = 8
"""Levels from one kept level to the next: of the nodes only every 256 leaves' are kept, and of those every 256's."""
EMPTY = sha256(b"").digest()
"""The root of a tree without leaves."""

Nodes = Callable[[int, int], bytes]
"""The hash of the complete subtree with a level and a place."""


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree that is to be kept."""

    level: int
    place: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree that grows at its right end: how many leaves it has, and the hashes of the complete subtrees that it is
    made of, from left to right, each smaller than the one before."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def extended(self, digests: Iterable[bytes]) -> "tuple[Frontier, list[Node]]":
        """The tree with leaves for ``digests`` added, and those of its new nodes that are to be kept."""
        size, hashes, kept = self.size, list(self.hashes), list[Node]()
        for digest in digests:
            found, place, level = leaf_hash(digest), size, 0
            while place & 1:
                found = node_hash(hashes.pop(), found)
                place >>= 1
                level += 1
                if level % STRIDE == 0:
                    kept.append(Node(level, place, found))
            hashes.append(found)
            size += 1
        return Frontier(size, tuple(hashes)), kept

    @property
    def root(self) -> bytes:
        """The root of the tree as it is."""
        if not self.hashes:
            return EMPTY
        *before, found = self.hashes
        for left in reversed(before):
            found = node_hash(left, found)
        return found


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf that holds ``data``."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node with these two below it."""
    return sha256(b"\x01" + left + right).digest()


def frontier(nodes: Nodes, size: int) -> Frontier:
    """The tree of the first ``size`` leaves."""
    hashes, begin = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            hashes.append(nodes(level, begin >> level))
            begin += 1 << level
    return Frontier(size, tuple(hashes))


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 §2.1.1: what leads from the leaf at ``index`` (from 0) to the root of the tree
    of the first ``size`` leaves."""
    begin, end, path = 0, size, list[bytes]()
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_root(nodes, middle, end))
            end = middle
        else:
            path.append(_root(nodes, begin, middle))
            begin = middle
    return path[::-1]


def consistency_proof(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 §2.1.2: that the tree of ``new`` leaves begins with that of ``old`` ones. Empty
    where these are as many, or none."""
    if not 0 < old < new:
        return []
    begin, end, whole, path = 0, new, True, list[bytes]()
    while end != old:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(_root(nodes, middle, end))
            end = middle
        else:
            path.append(_root(nodes, begin, middle))
            begin, whole = middle, False
    if not whole:
        path.append(_root(nodes, begin, end))
    return path[::-1]


def root_from_inclusion(digest: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that a tree of ``size`` leaves has where ``digest`` is the leaf at ``index`` and ``proof`` its path
    (RFC 9162 §2.1.3.2). Raises HeadError where a proof of that length belongs to no such leaf."""
    if not 0 <= index < size:
        raise HeadError(f"a tree of {size} leaves has none at {index}")
    place, last, found = index, size - 1, leaf_hash(digest)
    for part in proof:
        if last == 0:
            raise HeadError("the inclusion proof is too long")
        if place & 1 or place == last:
            found = node_hash(part, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, part)
        place, last = place >> 1, last >> 1
    if last:
        raise HeadError("the inclusion proof is too short")
    return found


def extends(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the tree of ``new`` leaves with ``new_root`` begins with that of ``old`` leaves with
    ``old_root`` (RFC 9162 §2.1.4.2)."""
    if old == 0:
        return old_root == EMPTY and not proof
    if old >= new:
        return old == new and old_root == new_root and not proof
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = path[0]
    for part in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            first, second = node_hash(part, first), node_hash(part, second)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            second = node_hash(second, part)
        place, last = place >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


def _split(leaves: int) -> int:
    """The largest power of two below ``leaves``, which are two at least."""
    return 1 << (leaves - 1).bit_length() - 1


def _root(nodes: Nodes, begin: int, end: int) -> bytes:
    """The root over the leaves from ``begin`` to ``end``, as RFC 6962 splits them: ``begin`` is a multiple of the
    largest power of two that is in there."""
    leaves = end - begin
    if not leaves & (leaves - 1):
        level = leaves.bit_length() - 1
        return nodes(level, begin >> level)
    middle = begin + _split(leaves)
    return node_hash(_root(nodes, begin, middle), _root(nodes, middle, end))
