"""The frames of the protocol with plain sockets, for what must share no code with the server that is measured."""

import socket


def send_frame(connection: socket.socket, *pieces: bytes | memoryview) -> None:
    """Send one frame whose body is ``pieces`` in order."""
    connection.sendall(sum(map(len, pieces)).to_bytes(8, "big"))
    for piece in pieces:
        connection.sendall(piece)


def receive_length(connection: socket.socket) -> int:
    """The length of the next body, in bytes. Raises EOFError."""
    head = bytearray(8)
    receive_exactly(connection, memoryview(head))
    return int.from_bytes(head, "big")


def receive_exactly(connection: socket.socket, space: memoryview) -> None:
    """Fill ``space``. Raises EOFError where the other end closes first."""
    while space:
        count = connection.recv_into(space)
        if count == 0:
            raise EOFError(f"the connection ended {len(space)} bytes early")
        space = space[count:]
