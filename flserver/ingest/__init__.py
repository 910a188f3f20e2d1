"""Several interpreters, or machines, for one run: *nodes* have the trainers' connections, the *coordinator* the rounds.

A node has ``network/`` whole: it accepts, reads, inspects, digests, and folds what counts into an exact sum of its own.
The coordinator has the one exchange, the record and the identities; its *desk* answers what nodes ask. Between them is
a *line*, which carries batches of bytes each way, in order:

    questions.py  what is asked and answered: the closed set of it, as values
    told.py       what is said and not answered, each way
    batches.py    the one place that makes bytes of these and back; no pickle
    outbox.py     what is to be said, in order, and when
    asking.py     the node's end of a line: many sessions ask at once, a batch carries them together
    in_order.py   what the desk does in the order in which it was said, and may have to wait for the record
    door.py       the node's side of ``rounds.door``, with folding.py and recording.py
    node.py       a node, put together, with its models.py
    making.py     what a node has of an attempt that is over, by range, and the new model in one range
    desk.py       the coordinator's side, which gives the numbers of ids.py, and flushes by flusher.py
    place.py      what belongs to one node there: seated.py its registrations, held.py its uploads, losses.py what ends
                  with it
    gathering.py  how what nodes have is brought together, over places.py
    engine.py     what whoever connects them does beside the lines
    lines.py      lines over a socket pair
    inbox.py      what a node was told, where telling is a call
    faults.py     whose loss it is that something failed at a node

Whoever connects the two (threads, a socket, an engine for many machines) uses no more than this:

    node = Node(settings, listener, run_id=…, …)    node.start() · node.prepared(layout, template, …) · node.join()
    node.take(timeout) -> bytes                     what the node has to say; empty where nothing comes in ``timeout`` s
    node.give(batch: bytes | memoryview) -> None    what the desk says to it
    node.lost() -> None                             the line has ended
    node.model(number, blobs) -> None               a model's bytes, where they do not come in a batch
    node.making.cut(…), node.making.made(…)         what it has of an attempt, once the desk has settled it, in a range
                                                    of the model, and the new model there, of what all nodes have

    desk = Desk(exchange, recorder, ids)            desk.small = … · desk.close(grace, patience)
    place = desk.open(name, started)                a node of that name is there; what ``started`` it goes on record
    place.take(timeout) -> bytes                    what the desk has to say to it
    place.give(batch: bytes | memoryview) -> None   what it says to the desk
    place.gone(why: str) -> None                    its line ended: its registrations leave, what was folded only there
                                                    is ``lost``
    desk.engine = Engine                            how a model's bytes get to the nodes, if not in their batches, and
                                                    how nodes make the new one; left out, whole sums, and updates that
                                                    stayed at their nodes, come by the line

``take`` and ``give`` may be called from two threads at once, each by one thread at a time. A ``give`` never waits for
another node, nor for the record.
"""
