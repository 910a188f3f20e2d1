"""Ingest nodes as actors of a Ray cluster, on whichever of its machines; ``cluster/`` is what asks Ray.

The server's side, with Ray:

    room.py       whether so many nodes have room, before anything is made; asked.py asks, in a process of its own
    nodes.py      begins them, after those that left.py finds of an earlier server, and another one where one died
    line.py       the line to one: calls of its actor
    models.py     the model, once a machine, and the new one by range

What runs in a node's process, which outlives its server:

    node.py       the actor
    port.py       where it listens, for whichever server
    served.py     what belongs to the server that it has now
    known.py      by which settings it knows its peers
"""
