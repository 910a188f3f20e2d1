"""What goes on record of one connection: that it opened, every message in and out, and how it ended."""

import contextlib
from itertools import count

from flserver import events
from flserver.bus import Bus
from flserver.errors import StoreError
from flserver.exchange import Ticket
from flserver.transport import Received


class Correspondence:
    """Emits the events of one connection. ``message_ids`` gives numbers unique in the database.

    ``purpose`` and ``client_id`` are set as soon as the first message tells.
    """

    def __init__(self, bus: Bus, connection_id: int, message_ids: "count[int]") -> None:
        self._bus = bus
        self._message_ids = message_ids
        self.connection_id = connection_id
        self.purpose = "unknown"
        self.client_id: str | None = None
        self._bytes_in = self._bytes_out = 0

    def opened(self, host: str, port: int) -> None:
        self._bus.emit(
            events.ConnectionOpened(connection_id=self.connection_id, peer_host=host, peer_port=port, transport="tcp")
        )

    def closed(self, reason: str) -> None:
        with contextlib.suppress(StoreError):  # the server is stopping because of it
            self._bus.emit(
                events.ConnectionClosed(
                    connection_id=self.connection_id,
                    purpose=self.purpose,
                    client_id=self.client_id,
                    reason=reason,
                    bytes_in=self._bytes_in,
                    bytes_out=self._bytes_out,
                )
            )

    def received(
        self,
        frame: Received,
        *,
        header: str | None,
        round: int | None = None,
        outcome: str = "ok",
        reason: str | None = None,
    ) -> int:
        """A frame came in, as far as it came. Returns its message_id."""
        message_id = next(self._message_ids)
        self._bytes_in += frame.bytes
        self._bus.emit(
            events.MessageReceived(
                at=frame.ended_at_utc,
                message_id=message_id,
                connection_id=self.connection_id,
                client_id=self.client_id,
                round=round,
                header=header,
                encoding=frame.reader.encoding,
                bytes=frame.bytes,
                digest=frame.digest,
                seconds=frame.seconds,
                outcome=outcome,
                reason=reason,
            )
        )
        return message_id

    def sent(
        self,
        *,
        header: str,
        encoding: str,
        bytes: int,
        digest: str,
        seconds: float,
        failure: str | None,
        ticket: Ticket | None = None,
        sent_at: str | None = None,
    ) -> None:
        """A frame went out, or failed to; ``ticket`` and ``sent_at`` are a model's."""
        if failure is None:
            self._bytes_out += bytes
        self._bus.emit(
            events.MessageSent(
                message_id=next(self._message_ids),
                connection_id=self.connection_id,
                client_id=self.client_id,
                round=ticket.round if ticket else None,
                attempt=ticket.attempt if ticket else None,
                header=header,
                encoding=encoding,
                bytes=bytes,
                digest=digest,
                seconds=seconds,
                sent_at=sent_at,
                outcome="ok" if failure is None else "failed",
                reason=failure,
            )
        )
