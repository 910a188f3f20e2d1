"""Ingest nodes as processes of this machine: they share the server's socket, and each has a line to its desk.

children.py   starts them, and another one where one died, as often as restarts.py lets it
ending.py     how a process ended
terms.py      what one is told first: settings, the operator's code, the roster
child.py      what runs in one: python -m flserver.process.nodes.child
called.py     what they are asked beside their lines: models, and the new one by range
calls.py      how they are asked, with descriptors that go along
descriptors.py  which are shared, copied and closed
values.py     what both sides have in common, in memory without a name
about.py      what is on record of a node, here and on Ray
"""
