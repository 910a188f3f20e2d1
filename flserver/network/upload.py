"""The connection that brings a trainer's update: read by the session, here inspected, offered and put on record."""

from collections.abc import Iterator

from flserver.aggregation.checks import Inspection, inspect, state_digest
from flserver.aggregation.fit import Fit, converted, fit
from flserver.errors import Refused, TensorsTooLarge
from flserver.events.words import Outcome
from flserver.models.state import State, as_tensor, state_bytes, state_over
from flserver.network.connection import AcceptedConnection
from flserver.network.memory import Room
from flserver.network.transport import Received
from flserver.rounds import Upload
from flserver.rounds.door import Awaited
from flserver.rounds.updates import Submission
from flserver.wire.messages import Update


def take_update(connection: AcceptedConnection, update: Update, frame: Received) -> Iterator[Awaited]:
    """Decide what the update in ``frame`` is, put that on record, and hand it to the round it counts in. Where somebody
    else decides, gives what is waited for, and goes on when that is there.

    Where this returns, its memory is released, or the exchange's to release. Raises Refused, with what the update said
    of itself, for what cannot be used or is not this peer's to send, which is not on record then; and StoreError.
    """
    record, exchange = connection.record, connection.context.exchange
    record.purpose, record.client_id = "upload", update.client_id
    try:
        # Before the work of looking at it: many names can share one tensor, so the body does not bound that work.
        exchange.check_upload(update.client_id, connection.peer)
        connection.context.folding.came(update.client_id)
        submission, note = _examine(connection, update, frame)
        try:
            if (awaited := connection.context.folding.ask(submission)) is not None:
                yield awaited
            settle(connection, frame, submission, reason=note, asked=True)
        except BaseException:
            submission.release()
            raise
    except Refused as refusal:
        refusal.header, refusal.client_id = update.header, update.client_id
        raise


def settle(
    connection: AcceptedConnection,
    frame: Received,
    submission: Submission,
    *,
    header: str | None = Update.header,
    outcome: Outcome = "ok",
    reason: str | None = None,
    asked: bool = False,
) -> None:
    """Have a submission decided, put that on record, and have it folded; most keywords are ``record.update``'s. Where
    it was not ``asked`` ahead what is decided, this may wait for who decides; nobody waits for what lasts.

    Raises RegistrationRefused or IdentityRefused where who may speak for it has changed meanwhile, and StoreError; the
    submission's memory is then the caller's.
    """
    folding, identity = connection.context.folding, connection.context.identity.of(connection.peer)
    if folding.asks and not (asked and folding.is_quick(submission)):
        connection.channel.before_wait()
    verdict = folding.offer(submission)
    try:
        connection.record.update(frame, submission, verdict, identity, header=header, outcome=outcome, reason=reason)
    except BaseException:
        folding.withdraw(submission, verdict)
        raise
    folding.confirm(submission, verdict)


def upload_of(
    connection: AcceptedConnection,
    client_id: str,
    digest: str | None,
    found: Inspection,
    base_round: int | None = None,
) -> Upload:
    """What came on the connection, for the rules: whose it is, its tensors' digest, and what was ``found`` of them,
    held against the model of ``base_round``."""
    return Upload(
        update_id=next(connection.context.update_ids),
        client_id=client_id,
        peer=connection.peer,
        accepted_at=connection.accepted_at,
        digest=digest,
        rejection=found.rejection,
        norms=found.norms,
        cosine=found.cosine,
        base_round=base_round,
    )


def _examine(connection: AcceptedConnection, update: Update, frame: Received) -> tuple[Submission, str | None]:
    """Hold an update against the model that was sent; also what was done to make it fit.

    Raises TensorsTooLarge, and NoRoom where it would have to be converted and there is no place for that.
    """
    context, most = connection.context, connection.context.limits.tensors
    sent = {name: as_tensor(view) for name, view in update.model.tensors.items()}
    if sum(tensor.nbytes for tensor in sent.values()) > most:
        raise TensorsTooLarge(f"its tensors hold more than {most} bytes together")
    digest, current = state_digest(sent), context.exchange.model
    model = current.state
    fitting = fit(sent, model, context.accept_dtypes)
    if not isinstance(fitting, Fit):
        upload = upload_of(connection, update.client_id, digest, Inspection(fitting, None))
        return Submission(upload, {}, update.metrics, frame.release), None
    tensors, release = fitting.tensors, frame.release
    if fitting.converting:
        frame.settled()  # the room for the converted needs a lane too
        room = _convert(connection, fitting, model)
        frame.release()
        tensors, release = state_over(room.view, model), room.release
    inspection = inspect(tensors, model, context.tied, context.buffers, current.step)
    upload = upload_of(connection, update.client_id, digest, inspection, current.round)
    return Submission(upload, tensors, update.metrics, release), fitting.note


def _convert(connection: AcceptedConnection, fitting: Fit, model: State) -> Room:
    """The update's numbers in the model's dtypes, in room of their own. Raises NoRoom."""
    size = state_bytes(model)
    room = connection.context.room(connection.peer, size)
    try:
        room.make(size, 0)
        converted(fitting, model, room.view)
        room.hold(size, waits=not connection.context.folding.on_arrival)
    except BaseException:
        room.release()
        raise
    return room
