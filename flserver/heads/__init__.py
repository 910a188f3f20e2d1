"""Heads of the record that others can hold it to: the Merkle tree over its events, signed notes, and their keys.

``tree``, ``note`` and ``proofs`` are pure; ``keys`` is the only home of ``cryptography``, and has the keys' files. The
formats are those of C2SP, so that other tools read them too: signed-note, tlog-checkpoint, tlog-cosignature and
tlog-proof, over the tree of RFC 6962. A head's origin is its key's name.
"""
