"""Whether a head extends what was seen before."""

from flserver.errors import HeadError, Rewritten
from flserver.heads.keys import opened
from flserver.heads.note import Checkpoint, PublicKey
from flserver.heads.proofs import Extension
from flserver.heads.tree import extends


def extended(seen: Checkpoint | None, answer: Extension, log: PublicKey) -> Checkpoint:
    """The head of ``answer``, where ``log`` signed it and it extends ``seen``, the last one (None: it is the first).

    Raises Rewritten where it is signed and does not, HeadError where it says nothing about that.
    """
    head = opened(answer.head, log)
    if seen is None:
        return head
    if head.size < seen.size:
        raise Rewritten(f"{log.name} went back: it had {seen.size} events, and shows {head.size}")
    if head.size == seen.size:
        if head.root != seen.root:
            raise Rewritten(f"{log.name} has two heads of {seen.size} events: what they are was changed")
        return head
    if answer.old != seen.size:
        raise HeadError(f"a proof from {seen.size} events on was asked for, and one from {answer.old} on came")
    if not extends(seen.size, seen.root, head.size, head.root, answer.proof):
        raise Rewritten(
            f"{log.name} was rewritten: no proof that its {head.size} events begin with the {seen.size} seen before"
        )
    return head
