"""What a channel tells of its connection without reading from it."""

import socket

from flserver.network.channel import Channel
from tests.network.frames import LONG, reset


def test_a_channel_tells_data_from_each_kind_of_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, trainer = pair
    assert Channel(ours).ended() is None
    trainer.sendall(b"x")
    assert read_peeked(ours) == b"x"
    assert Channel(ours).ended() is None
    ours.settimeout(LONG)
    assert ours.recv(1) == b"x", "it was only looked at"
    trainer.shutdown(socket.SHUT_WR)
    assert read_peeked(ours) == b""
    assert Channel(ours).ended() == "closed"


def test_a_channel_knows_a_reset(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, trainer = pair
    reset(trainer)
    assert Channel(ours).ended() == "reset"


def test_a_channel_says_before_it_waits_and_not_where_something_is_there(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, trainer = pair
    channel, space, waits = Channel(ours), memoryview(bytearray(10)), []

    def before_wait() -> None:
        waits.append("waits")
        trainer.sendall(b"late")

    channel.before_wait = before_wait
    trainer.sendall(b"there")
    read_peeked(ours)
    ours.setblocking(True)
    assert (channel.receive_into(space, LONG), waits) == (5, [])
    assert (channel.receive_into(space, LONG), waits) == (4, ["waits"])
    trainer.close()
    assert channel.receive_into(space, LONG) == 0


def read_peeked(sock: socket.socket) -> bytes:
    """Waits until there is something to read, without taking it."""
    sock.settimeout(LONG)
    return sock.recv(1, socket.MSG_PEEK)


def test_a_channel_tells_how_much_waits_to_be_read(pair: tuple[socket.socket, socket.socket]) -> None:
    """By that a full server knows an upload that no session has read yet from a flood beside it."""
    ours, trainer = pair
    channel = Channel(ours)
    assert channel.unread() == 0
    trainer.sendall(b"x" * 2000)
    read_peeked(ours)
    assert channel.unread() == 2000
    ours.close()
    assert channel.unread() == 0


def test_nothing_is_sent_at_once_where_the_channel_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    channel = Channel(ours)
    channel.close()
    assert channel.send_at_once([b"x"]) == 0
