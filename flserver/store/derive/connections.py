"""The rows that follow from connections, messages and registrations."""

from flserver import events as e
from flserver.store import tables as t
from flserver.store.derive.statements import Derivations, Origin, Rows, shared


def _connection_opened(rows: Rows, origin: Origin, event: e.ConnectionOpened) -> None:
    rows.insert_from(event, t.connections, origin, purpose="unknown", opened_at=event.at)


def _peer_identified(rows: Rows, origin: Origin, event: e.PeerIdentified) -> None:
    told = shared(event, t.connections)
    rows.change(t.connections, told.pop("connection_id"), told)


def _connection_closed(rows: Rows, origin: Origin, event: e.ConnectionClosed) -> None:
    ended = {
        "client_id": event.client_id,
        "purpose": event.purpose,
        "closed_at": event.at,
        "close_reason": event.reason,
        "bytes_in": event.bytes_in,
        "bytes_out": event.bytes_out,
    }
    rows.change(t.connections, event.connection_id, ended)


def _strangers_summed(rows: Rows, origin: Origin, event: e.StrangersSummed) -> None:
    rows.insert_from(event, t.summaries, origin, event_seq=origin.seq)


def _message_received(rows: Rows, origin: Origin, event: e.MessageReceived) -> None:
    rows.insert_from(event, t.messages, origin, direction="in")


def _message_sent(rows: Rows, origin: Origin, event: e.MessageSent) -> None:
    rows.insert_from(event, t.messages, origin, direction="out")
    if event.attempt is not None and event.outcome == "ok":
        seat = (origin.run_id, event.round, event.attempt, event.client_id)
        rows.change(t.client_rounds, seat, {"sent_at": event.sent_at, "bytes_out": event.bytes})


def _client_registered(rows: Rows, origin: Origin, event: e.ClientRegistered) -> None:
    rows.insert_from(event, t.clients, origin, registered_at=event.at)
    rows.change(t.connections, event.connection_id, {"client_id": event.client_id, "purpose": "register"})


def _client_left(rows: Rows, origin: Origin, event: e.ClientLeft) -> None:
    key = (origin.run_id, event.client_id, event.registration)
    rows.change(t.clients, key, {"left_at": event.at, "left_reason": event.reason})


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
