"""A log in memory, as a server would show it, and what a dishonest one shows."""

import secrets
from collections.abc import Sequence

from flserver.heads.keys import PrivateKey
from flserver.heads.note import LOG
from flserver.heads.proofs import Extension
from flserver.heads.tree import Frontier, Nodes, consistency_proof, leaf_hash, node_hash

KEY = PrivateKey.generate("log.example/a", LOG)


def nodes_over(leaves: Sequence[bytes]) -> Nodes:
    def node(level: int, place: int) -> bytes:
        if level == 0:
            return leaf_hash(leaves[place])
        return node_hash(node(level - 1, 2 * place), node(level - 1, 2 * place + 1))

    return node


class Log:
    """Leaves that are added and, where it is dishonest, changed; :meth:`fetch` is what its server answers."""

    def __init__(self, leaves: Sequence[bytes] = (), key: PrivateKey = KEY) -> None:
        self.leaves, self.key = list(leaves), key

    def grow(self, count: int) -> "Log":
        self.leaves += [secrets.token_bytes(32) for _ in range(count)]
        return self

    def forked(self) -> "Log":
        return Log(self.leaves, self.key)

    def fetch(self, since: int | None) -> str:
        size = len(self.leaves)
        head = self.key.sign(size, Frontier().extended(self.leaves)[0].root)
        if since is None or since > size:
            return str(head)
        proof = consistency_proof(nodes_over(self.leaves), since, size)
        return str(Extension(old=since, proof=tuple(proof), head=head))
