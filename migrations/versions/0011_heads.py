"""The Merkle tree over the events' digests (RFC 6962), and its signed heads.

Of the tree's nodes every eighth level's are kept; those over the events so far are made here, as a server keeps them.
"""

from collections.abc import Iterable
from hashlib import sha256

from alembic import op
from sqlalchemy import text

revision = "0011"
down_revision = "0010"

STATEMENTS = (
    """
    CREATE TABLE heads (
        event_seq INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL REFERENCES runs, process_id INTEGER NOT NULL,
        at TEXT NOT NULL, size INTEGER NOT NULL, root TEXT NOT NULL, key TEXT NOT NULL, note TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE tree_nodes (
        level INTEGER NOT NULL, place INTEGER NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (level, place)
    ) STRICT, WITHOUT ROWID
    """,
)

VIEWS = {"v1_heads": "SELECT run_id, process_id, at, size, root, key, note, event_seq FROM heads"}


def upgrade() -> None:
    """From 0010."""
    for statement in STATEMENTS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")
    connection, level = op.get_bind(), 8
    digests = connection.execute(text("SELECT digest FROM events ORDER BY seq")).scalars()
    kept = _every_256(sha256(b"\x00" + _raw(digest)).digest() for digest in digests)
    while kept:
        rows = [{"level": level, "place": place, "hash": f"sha256:{one.hex()}"} for place, one in enumerate(kept)]
        connection.execute(text("INSERT INTO tree_nodes VALUES (:level, :place, :hash)"), rows)
        kept, level = _every_256(kept), level + 8


def downgrade() -> None:
    """To 0010."""
    op.execute("DROP TABLE heads")
    op.execute("DROP TABLE tree_nodes")


def _raw(digest: str) -> bytes:
    """A digest that is none, in a chain that was tampered with, is taken as it stands: ``verify`` says what it is."""
    try:
        return bytes.fromhex(digest.removeprefix("sha256:"))
    except ValueError:
        return digest.encode()


def _every_256(hashes: Iterable[bytes]) -> list[bytes]:
    """The nodes over 256 of ``hashes`` each, eight levels up; what is left over has none yet."""
    found, some = [], list[bytes]()
    for one in hashes:
        some.append(one)
        if len(some) == 256:
            while len(some) > 1:
                some = [sha256(b"\x01" + some[at] + some[at + 1]).digest() for at in range(0, len(some), 2)]
            found.append(some.pop())
    return found
