"""A message in a whole frame: where it is of a known layout, it is read at once, else when it is its owner's turn."""

from flserver.network.connection import AcceptedConnection
from flserver.network.transport import Received
from flserver.wire.inert import Tick
from flserver.wire.messages import Message, Update


def read_message(connection: AcceptedConnection, frame: Received) -> Message:
    """The message that came. Raises Refused, NotAskedFor where it was not read, and ConnectionLost where the server
    stops."""
    context, conversation = connection.context, connection.conversation
    if frame.reader.encoding != "pickle":
        return conversation.receive(frame.hold())
    share = context.exchange.expect_upload(connection.peer)  # strangers do not get as far as the pickle machine
    connection.await_model(frame.reader)
    from flserver.network import unusable

    if frame.room is None:
        unusable.check_asked(connection, frame)
    body = frame.hold(waits=not context.folding.on_arrival)
    before = context.layouts.known
    if (known := conversation.recognise(body, context.layouts)) is not None:
        return known

    owner = share.owner if connection.peer.certificate is not None else connection.peer.host

    def read(tick: Tick) -> Message:
        # Others of its layout, a fleet's first ones, may have been before it.
        return conversation.recognise(body, context.layouts, before) or conversation.receive(body, tick)

    def learn(message: Message, tick: Tick) -> None:
        if isinstance(message, Update) and unusable.may_send(connection, message.client_id):
            conversation.learn(body, message, context.layouts, owner, tick, before)

    connection.channel.before_wait()
    return context.decoding.run(owner, read, lambda: unusable.said_to_be_of(connection, body), learn)
