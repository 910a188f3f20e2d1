"""Uploads that cannot be used. Each still has a sender, and where that is known, nobody waits for it any longer.

And those that nobody waits for: where their sender is known before they are read, they are not read.
"""

from contextlib import suppress

from flserver.aggregation.checks import Inspection
from flserver.errors import (
    FrameTooLong,
    IdentityRefused,
    MessageRefused,
    NoRoom,
    NotAskedFor,
    PickleRefused,
    Refused,
    RegistrationRefused,
    TensorsTooLarge,
)
from flserver.events.words import RejectedKind, rejected
from flserver.network.connection import AcceptedConnection
from flserver.network.transport import Received
from flserver.network.upload import settle, upload_of
from flserver.rounds.updates import Submission
from flserver.wire.messages import Update, said_of_itself
from flserver.wire.pickles import read_opening

MOST_NAMES = 10  # of clients, in a reason
NAME_OPCODES = 32  # in which an update's header and client are said: trainers need half as many


def is_upload(frame: Received, refusal: Refused) -> bool:
    """Whether what was refused is an upload, as far as can be told."""
    if isinstance(refusal, FrameTooLong):
        return frame.reader.encoding != "json"
    if isinstance(refusal, IdentityRefused):
        return False
    return frame.reader.encoding == "pickle" and frame.reader.complete and refusal.header in (None, Update.header)


def check_asked(connection: AcceptedConnection, frame: Received) -> None:
    """Raises NotAskedFor where the peer's upload can only be a duplicate, whatever it holds; RegistrationRefused or
    IdentityRefused where its first bytes say besides that it is of a client for whom this peer may not speak."""
    exchange, peer = connection.context.exchange, connection.peer
    sender = exchange.not_asked(peer, connection.accepted_at)
    if sender is None:
        return
    refusal: Refused = NotAskedFor(sender)
    header, client_id = said_of_itself(read_opening(frame.reader.body))
    try:
        exchange.check_upload(sender if client_id is None else client_id, peer)
    except (RegistrationRefused, IdentityRefused) as error:
        connection.record.purpose = "upload"
        refusal = error
    refusal.header, refusal.client_id = header, client_id
    raise refusal


def said_to_be_of(connection: AcceptedConnection, body: memoryview) -> str | None:
    """The client that an upload names in its first bytes, where this peer may speak for it."""
    _, client_id = said_of_itself(read_opening(body, NAME_OPCODES))
    return client_id if client_id is not None and may_send(connection, client_id) else None


def may_send(connection: AcceptedConnection, client_id: str) -> bool:
    """Whether this peer may speak for that client, which has registered."""
    with suppress(RegistrationRefused, IdentityRefused):
        connection.context.exchange.check_upload(client_id, connection.peer)
        return True
    return False


def keep_duplicate(connection: AcceptedConnection, frame: Received, refusal: NotAskedFor) -> None:
    """Put an upload on record that was not read. Raises as ``settle``, with nothing on record then."""
    connection.record.purpose, connection.record.client_id = "upload", refusal.sender
    upload = upload_of(connection, refusal.sender, None, Inspection(rejected("unreadable", "it was not read"), None))
    submission = Submission(upload, {}, (), frame.release)
    if refusal.header == Update.header:
        settle(connection, frame, submission)
    else:
        reason = "what was not asked for, and does not begin as an update: it was not read"
        settle(connection, frame, submission, header=refusal.header, outcome="refused", reason=reason)


def refuse_upload(connection: AcceptedConnection, frame: Received, refusal: Refused) -> None:
    """Put an upload on record that cannot be used, or that is not this peer's to send.

    One that cannot be used answers its model all the same, where its sender is known: it is ``rejected``. Where the
    sender is not known, the reason on record names whose it could be. Raises StoreError.
    """
    record, reason = connection.record, str(refusal)
    if isinstance(refusal, NoRoom) and refusal.client_id is None:  # its body was not kept, but the first bytes were
        refusal.header, refusal.client_id = said_of_itself(read_opening(frame.reader.body))
    if (kind := _unusable(refusal)) is not None:
        if frame.reader.encoding == "pickle":
            record.purpose = "upload"
        sender, could_be = connection.context.exchange.sender(refusal.client_id, connection.peer)
        if sender is not None and _reject(connection, frame, refusal, kind, sender):
            return
        if refusal.client_id is not None:
            reason += f"; it says that it is of client {refusal.client_id}"
        elif could_be:
            more = f" and {len(could_be) - MOST_NAMES} more" if len(could_be) > MOST_NAMES else ""
            reason += f"; it could be of client {', '.join(could_be[:MOST_NAMES])}{more}"
        refusal.args = (reason,)  # it is why the connection ends, too
    if isinstance(refusal, IdentityRefused):
        record.client_id = None  # it is not who it says it is; the reason says who that was
    record.received(frame, header=refusal.header, outcome=refusal.outcome, reason=reason)


def _reject(connection: AcceptedConnection, frame: Received, refusal: Refused, kind: RejectedKind, sender: str) -> bool:
    """Let the upload answer its sender's model; False where who may speak for that client has changed meanwhile."""
    connection.record.purpose, connection.record.client_id = "upload", sender
    connection.context.folding.came(sender)
    upload = upload_of(connection, sender, None, Inspection(rejected(kind, str(refusal)), None))
    submission = Submission(upload, {}, (), frame.release)
    try:
        settle(connection, frame, submission, header=refusal.header, outcome=refusal.outcome, reason=str(refusal))
    except (RegistrationRefused, IdentityRefused):
        connection.record.client_id = None
        return False
    return True


def _unusable(refusal: Refused) -> RejectedKind | None:
    """Why an upload cannot be used: it is over a limit, or not to be read. None where that is not what is wrong."""
    if isinstance(refusal, FrameTooLong | NoRoom | TensorsTooLarge):
        return "size"
    return "unreadable" if isinstance(refusal, PickleRefused | MessageRefused) else None
