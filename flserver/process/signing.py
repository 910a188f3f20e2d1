"""The record's heads are signed: after every round, and at every start, stop and end."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from flserver.events import Event, HeadSigned, RoundCommitted, RunEnded, ServerStarted, ServerStopped
from flserver.heads.note import LOG
from flserver.heads.tree import Frontier
from flserver.settings import StorePolicy
from flserver.store.appending import Signs, signs_nothing
from flserver.store.tree import written

if TYPE_CHECKING:
    from flserver.heads.keys import PrivateKey

SIGNED_AFTER = (ServerStarted, RoundCommitted, RunEnded, ServerStopped)


def signer(store: StorePolicy) -> Signs:
    """What signs the heads of a server with these settings. Raises UsageError where its key cannot be used."""
    if store.sign_key is None:
        return signs_nothing
    from flserver.heads.keys import load  # with cryptography, for whoever signs

    return partial(_sign, load(store.sign_key, LOG, "--sign-key", store.sign_key_passphrase_file))


def _sign(key: "PrivateKey", events: Sequence[Event], tree: Frontier) -> HeadSigned | None:
    """The head of ``tree`` where it is due after these events."""
    if not any(isinstance(event, SIGNED_AFTER) for event in events):
        return None
    note = key.sign(tree.size, tree.root)
    return HeadSigned(size=tree.size, root=written(tree.root), key=str(key.public), note=str(note))
