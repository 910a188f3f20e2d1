"""The Merkle tree is RFC 6962's, and its proofs prove what they say and nothing else."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import HeadError
from flserver.heads import tree
from tests.heads import naive

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The leaves and roots that implementations of Certificate Transparency test with."""
SIZES = st.integers(1, 700)


def digests(count: int, seed: int = 0) -> list[bytes]:
    return [random.Random(f"{seed} {number}").randbytes(32) for number in range(count)]


MANY = digests(700)


def nodes_over(leaves: list[bytes]) -> tree.Nodes:
    return lambda level, place: naive.mth(leaves[place << level : (place + 1) << level])


def test_the_roots_are_those_of_the_reference_leaves() -> None:
    grown = tree.Frontier()
    assert grown.root == naive.sha(b"")
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        grown, _ = grown.extended([leaf])
        assert grown.root.hex() == root
    assert tree.Frontier().extended(LEAVES)[0] == grown


def test_the_proofs_are_those_of_the_reference_leaves() -> None:
    path = tree.inclusion_proof(nodes_over(LEAVES), 0, 8)
    assert [part.hex()[:8] for part in path] == ["96a296d2", "5f083f0a", "6b47aaf2"]
    assert tree.root_from_inclusion(LEAVES[0], 0, 8, path).hex() == ROOTS[7]


@given(SIZES, st.lists(st.integers(1, 300), max_size=6))
def test_a_tree_grown_in_pieces_is_the_tree_and_keeps_every_256th_node(size: int, pieces: list[int]) -> None:
    leaves, grown, kept, begin = MANY[:size], tree.Frontier(), list[tree.Node](), 0
    for piece in (*pieces, size):
        grown, more = grown.extended(leaves[begin : begin + piece])
        kept += more
        begin = min(size, begin + piece)
    assert (grown.size, grown.root) == (size, naive.mth(leaves))
    assert kept == [tree.Node(8, place, naive.mth(leaves[256 * place :][:256])) for place in range(size // 256)]
    assert tree.frontier(nodes_over(leaves), size) == grown


@given(st.data(), SIZES)
def test_a_leaf_is_proven_to_be_in_the_tree_and_no_other(data: st.DataObject, size: int) -> None:
    index, leaves = data.draw(st.integers(0, size - 1)), MANY[:size]
    path = tree.inclusion_proof(nodes_over(leaves), index, size)
    assert path == naive.path(index, leaves)
    root = naive.mth(leaves)
    assert tree.root_from_inclusion(leaves[index], index, size, path) == root
    assert tree.root_from_inclusion(digests(1, seed=1)[0], index, size, path) != root
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        assert raises_or_differs(leaves[index], other, size, path, root)
    for wrong in (path[1:], [*path, root], [root, *path]):
        if wrong != path:
            assert raises_or_differs(leaves[index], index, size, wrong, root)


def raises_or_differs(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> bool:
    try:
        return tree.root_from_inclusion(leaf, index, size, path) != root
    except HeadError:
        return True


def test_a_leaf_that_a_tree_does_not_have_is_refused() -> None:
    for index, size in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(HeadError, match="has none at"):
            tree.root_from_inclusion(b"", index, size, [])


@given(st.data(), SIZES)
def test_a_tree_is_proven_to_extend_an_earlier_one_and_no_other(data: st.DataObject, new: int) -> None:
    old, leaves = data.draw(st.integers(0, new)), MANY[:new]
    old_root, root = naive.mth(leaves[:old]), naive.mth(leaves)
    path = tree.consistency_proof(nodes_over(leaves), old, new)
    assert path == (naive.proof(old, leaves) if 0 < old < new else [])
    assert tree.extends(old, old_root, new, root, path)
    other = digests(1, seed=2)[0]
    if old:
        assert not tree.extends(old, other, new, root, path), "another past"
        assert not tree.extends(old, old_root, new, other, path), "another present"
    if 0 < old < new:
        assert not tree.extends(old, old_root, new, root, path[1:])
        assert not tree.extends(old, old_root, new, root, [*path, other])
        assert not tree.extends(old, old_root, old, root, [])
        changed = data.draw(st.integers(0, len(path) - 1))
        assert not tree.extends(old, old_root, new, root, [*path[:changed], other, *path[changed + 1 :]])
    assert not tree.extends(new + 1, root, new, root, [])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 513, 700])
def test_whoever_changes_the_past_cannot_prove_that_it_was_extended(size: int) -> None:
    for place in {0, size // 2, size - 1}:
        forged = [*MANY[:place], digests(1, seed=3)[0], *MANY[place + 1 :]]
        path = tree.consistency_proof(nodes_over(forged), size, 700)
        assert not tree.extends(size, naive.mth(MANY[:size]), 700, naive.mth(forged), path)


def test_a_level_above_the_first_kept_one_is_kept_too() -> None:
    grown, kept = tree.Frontier(), list[tree.Node]()
    leaf = bytes(32)
    for _ in range(256):
        grown, more = grown.extended([leaf] * 256)
        kept += more
    same = naive.sha(b"\0" + leaf)
    for _ in range(16):
        same = naive.sha(b"\1" + same + same)
    assert [(node.level, node.place) for node in kept if node.level > 8] == [(16, 0)]
    assert kept[-1].hash == grown.root == same
