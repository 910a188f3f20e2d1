"""The rows that follow from connections, messages and registrations."""

from sqlalchemy import Connection

from flserver import events as e
from flserver.store import tables as t
from flserver.store.derive.statements import Derivations, Origin, change, insert_row, shared


def _connection_opened(connection: Connection, origin: Origin, event: e.ConnectionOpened) -> None:
    insert_row(connection, t.connections, origin, event, purpose="unknown", opened_at=event.at)


def _peer_identified(connection: Connection, origin: Origin, event: e.PeerIdentified) -> None:
    told = shared(event, t.connections)
    change(connection, t.connections, {"connection_id": told.pop("connection_id")}, told)


def _connection_closed(connection: Connection, origin: Origin, event: e.ConnectionClosed) -> None:
    change(
        connection,
        t.connections,
        {"connection_id": event.connection_id},
        {"client_id": event.client_id, "purpose": event.purpose, "closed_at": event.at}
        | {"close_reason": event.reason, "bytes_in": event.bytes_in, "bytes_out": event.bytes_out},
    )


def _strangers_summed(connection: Connection, origin: Origin, event: e.StrangersSummed) -> None:
    insert_row(connection, t.summaries, origin, event, event_seq=origin.seq)


def _message_received(connection: Connection, origin: Origin, event: e.MessageReceived) -> None:
    insert_row(connection, t.messages, origin, event, direction="in")


def _message_sent(connection: Connection, origin: Origin, event: e.MessageSent) -> None:
    insert_row(connection, t.messages, origin, event, direction="out")
    if event.attempt is not None and event.outcome == "ok":
        keys = {"run_id": origin.run_id, "round": event.round, "attempt": event.attempt, "client_id": event.client_id}
        change(connection, t.client_rounds, keys, {"sent_at": event.sent_at, "bytes_out": event.bytes})


def _client_registered(connection: Connection, origin: Origin, event: e.ClientRegistered) -> None:
    insert_row(connection, t.clients, origin, event, registered_at=event.at, rejoined=int(event.rejoined))
    values = {"client_id": event.client_id, "purpose": "register"}
    change(connection, t.connections, {"connection_id": event.connection_id}, values)


def _client_left(connection: Connection, origin: Origin, event: e.ClientLeft) -> None:
    keys = {"run_id": origin.run_id, "client_id": event.client_id, "registration": event.registration}
    change(connection, t.clients, keys, {"left_at": event.at, "left_reason": event.reason})


DERIVATIONS: Derivations = {
    e.ConnectionOpened: _connection_opened,
    e.PeerIdentified: _peer_identified,
    e.ConnectionClosed: _connection_closed,
    e.StrangersSummed: _strangers_summed,
    e.MessageReceived: _message_received,
    e.MessageSent: _message_sent,
    e.ClientRegistered: _client_registered,
    e.ClientLeft: _client_left,
}
