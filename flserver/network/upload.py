"""The connection that brings a trainer's update: read by the session, here inspected, offered and put on record."""

from flserver.aggregation.checks import inspect, rejected, state_digest
from flserver.aggregation.fit import Fit, converted, fit
from flserver.errors import (
    FrameTooLong,
    IdentityRefused,
    MessageRefused,
    NoRoom,
    PickleRefused,
    Refused,
    RegistrationRefused,
    TensorsTooLarge,
)
from flserver.events.words import RejectedKind
from flserver.models.state import State, as_tensor, state_bytes, state_over
from flserver.network.connection import AcceptedConnection
from flserver.network.memory import Room
from flserver.network.transport import Received
from flserver.rounds import Upload
from flserver.rounds.updates import Submission
from flserver.wire.messages import Update, said_of_itself
from flserver.wire.pickles import read_opening

MOST_NAMES = 10  # of clients, in a reason


def take_update(connection: AcceptedConnection, update: Update, frame: Received) -> None:
    """Decide what the update in ``frame`` is, put that on record, and hand it to the round it counts in.

    From then on its memory is the exchange's to release. Raises Refused, on record, for what cannot be used or is not
    this peer's to send.
    """
    record, exchange = connection.record, connection.context.exchange
    record.purpose, record.client_id = "upload", update.client_id
    try:
        # Before the work of looking at it: many names can share one tensor, so the body does not bound that work.
        exchange.check_upload(update.client_id, connection.peer)
        submission, norm, note = _examine(connection, update, frame)
        try:
            verdict = exchange.offer(submission.upload)
        except Refused:  # who may speak for it has changed meanwhile
            submission.release()
            raise
    except Refused as refusal:
        refusal.header, refusal.client_id = update.header, update.client_id
        refuse_upload(connection, frame, refusal)
        raise
    try:
        identity = connection.context.identity.of(connection.peer)
        record.update(frame, submission, verdict, identity, norm=norm, reason=note)
    finally:
        exchange.confirm_update(submission, verdict)


def _examine(
    connection: AcceptedConnection, update: Update, frame: Received
) -> tuple[Submission, float | None, str | None]:
    """Hold an update against the model that was sent; also its norm, and what was done to make it fit.

    Raises TensorsTooLarge, and NoRoom where it would have to be converted and there is no place for that.
    """
    context, most = connection.context, connection.context.limits.tensors
    sent = {name: as_tensor(view) for name, view in update.model.tensors.items()}
    if sum(tensor.nbytes for tensor in sent.values()) > most:
        raise TensorsTooLarge(f"its tensors hold more than {most} bytes together")
    digest, model = state_digest(sent), context.exchange.model.state
    fitting = fit(sent, model, context.accept_dtypes)
    if not isinstance(fitting, Fit):
        upload = _upload(connection, update.client_id, digest, fitting)
        return Submission(upload, {}, update.metrics, frame.release), None, None
    tensors, release = fitting.tensors, frame.release
    if fitting.converting:
        room = _convert(connection, fitting, model)
        frame.release()
        tensors, release = state_over(room.view, model), room.release
    inspection = inspect(tensors, model, context.tied)
    upload = _upload(connection, update.client_id, digest, inspection.rejection)
    return Submission(upload, tensors, update.metrics, release), inspection.norm, fitting.note


def _upload(connection: AcceptedConnection, client_id: str, digest: str | None, rejection: str | None) -> Upload:
    return Upload(
        update_id=next(connection.context.update_ids),
        client_id=client_id,
        peer=connection.peer,
        accepted_at=connection.accepted_at,
        digest=digest,
        rejection=rejection,
    )


def _convert(connection: AcceptedConnection, fitting: Fit, model: State) -> Room:
    """The update's numbers in the model's dtypes, in room of their own. Raises NoRoom."""
    size = state_bytes(model)
    room = connection.context.room(connection.peer, size)
    try:
        room.leave_lane()
        room.make(size, 0)
        converted(fitting, model, room.view)
        room.hold()
    except BaseException:
        room.release()
        raise
    return room


# --- what cannot be used ----------------------------------------------------------------------------------------------


def is_upload(frame: Received, refusal: Refused) -> bool:
    """Whether what was refused is an upload, as far as can be told: a trainer that sent one waits for no answer."""
    if isinstance(refusal, FrameTooLong):
        return frame.reader.encoding != "json"
    if isinstance(refusal, IdentityRefused):
        return False
    return frame.reader.encoding == "pickle" and frame.reader.complete and refusal.header in (None, Update.header)


def refuse_upload(connection: AcceptedConnection, frame: Received, refusal: Refused) -> None:
    """Put an upload on record that cannot be used, or that is not this peer's to send.

    One that cannot be used answers its model all the same, where its sender is known: it is ``rejected``, and nobody
    waits for it. Where the sender is not known, the reason on record names whose it could be.
    """
    exchange, record, peer, reason = connection.context.exchange, connection.record, connection.peer, str(refusal)
    kind = _unusable(refusal)
    if isinstance(refusal, NoRoom) and refusal.client_id is None:  # its body was not kept, but the first bytes were
        refusal.header, refusal.client_id = said_of_itself(read_opening(frame.reader.body))
    if kind is not None:
        record.purpose = "upload"
        sender, could_be = exchange.sender(refusal.client_id, peer)
        if sender is not None:
            upload = _upload(connection, sender, None, rejected(kind, reason))
            submission = Submission(upload, {}, (), frame.release)
            try:
                verdict = exchange.offer(upload)
            except (RegistrationRefused, IdentityRefused):
                pass  # who may speak for it has changed meanwhile
            else:
                record.client_id = sender
                try:
                    identity, header = connection.context.identity.of(peer), refusal.header
                    outcome = refusal.outcome
                    record.update(frame, submission, verdict, identity, header=header, outcome=outcome, reason=reason)
                finally:
                    exchange.confirm_update(submission, verdict)
                return
        elif could_be:
            more = f" and {len(could_be) - MOST_NAMES} more" if len(could_be) > MOST_NAMES else ""
            reason += f"; it could be of client {', '.join(could_be[:MOST_NAMES])}{more}"
    if isinstance(refusal, IdentityRefused):
        record.client_id = None  # it is not who it says it is; the reason says who that was
    record.received(frame, header=refusal.header, outcome=refusal.outcome, reason=reason)


def _unusable(refusal: Refused) -> RejectedKind | None:
    """Why an upload cannot be used: it is over a limit, or not to be read. None where that is not what is wrong."""
    if isinstance(refusal, FrameTooLong | NoRoom | TensorsTooLarge):
        return "size"
    return "unreadable" if isinstance(refusal, PickleRefused | MessageRefused) else None
