"""The connection that brings a trainer's update: read by the session, here inspected, offered and put on record."""

from typing import NoReturn

from flserver.aggregation.checks import inspect
from flserver.errors import IdentityRefused, MessageRefused, Refused, RegistrationRefused
from flserver.models.state import as_tensor
from flserver.network.connection import AcceptedConnection
from flserver.network.transport import Received
from flserver.rounds import Upload
from flserver.rounds.updates import Submission
from flserver.wire.messages import Update


def take_update(connection: AcceptedConnection, update: Update, frame: Received) -> None:
    """Decide what the update in ``frame`` is, put that on record, and hand it to the round it counts in.

    Where this returns, its memory is the exchange's to release. Raises Refused, on record, for what the rules do not
    take, and StoreError; then it is the caller's.
    """
    context, record = connection.context, connection.record
    record.purpose, record.client_id = "upload", update.client_id
    # Before the work of looking at it: many names can share one tensor, so the body does not bound that work.
    try:
        context.exchange.check_upload(update.client_id, connection.peer)
    except (RegistrationRefused, IdentityRefused) as error:
        _refuse(connection, update, frame, error)
    tensors = {name: as_tensor(view) for name, view in update.model.tensors.items()}
    most = context.limits.tensors
    if sum(tensor.nbytes for tensor in tensors.values()) > most:
        _refuse(connection, update, frame, MessageRefused(f"its tensors hold more than {most} bytes together"))
    inspection = inspect(tensors, context.exchange.model.state, context.tied)
    upload = Upload(
        update_id=next(context.update_ids),
        client_id=update.client_id,
        peer=connection.peer,
        accepted_at=connection.accepted_at,
        digest=inspection.digest,
        rejection=inspection.rejection,
    )
    submission = Submission(upload, tensors, update.metrics, frame.release)
    try:
        verdict = context.exchange.offer(upload)
    except (RegistrationRefused, IdentityRefused) as error:  # who may speak for it has changed meanwhile
        _refuse(connection, update, frame, error)
    try:
        record.update(frame, submission, inspection, verdict, context.identity.of(connection.peer))
    except BaseException:
        context.exchange.withdraw_update(upload, verdict)
        raise
    context.exchange.confirm_update(submission, verdict)


def _refuse(connection: AcceptedConnection, update: Update, frame: Received, refusal: Refused) -> NoReturn:
    """Put the refused upload on record, and raise ``refusal``."""
    if isinstance(refusal, IdentityRefused):
        connection.record.client_id = None  # it is not who it says it is; the reason says who that was
    connection.record.received(frame, header=update.header, outcome=refusal.outcome, reason=str(refusal))
    raise refusal
