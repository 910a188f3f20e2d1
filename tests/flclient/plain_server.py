"""A server as they are in the field: plain ``pickle`` and sockets. It reads answers as the class it sent."""

import json
import pickle
import socket
import threading
from contextlib import AbstractContextManager

from tests.patience import PATIENCE


def read_frame(connection):
    length = int.from_bytes(read_bytes(connection, 8), "big")
    return read_bytes(connection, length)


def read_bytes(connection, count):
    body = bytearray()
    while len(body) < count:
        piece = connection.recv(min(count - len(body), 2**20))
        if not piece:
            raise EOFError(f"end of file after {len(body)} of {count} bytes")
        body += piece
    return bytes(body)


def frame(body):
    return len(body).to_bytes(8, "big") + body


class PlainServer(AbstractContextManager):
    """Runs ``script(server)`` on a thread. Leaving the context waits for it and raises what it raised."""

    def __init__(self, script, family=socket.AF_INET, host="127.0.0.1"):
        self._script = script
        self._listener = socket.create_server((host, 0), family=family)
        self._listener.settimeout(PATIENCE)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="plain-server")
        self._error = None
        self._open = []
        self.hellos = []
        self.answers = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self._thread.join(PATIENCE)
        for connection in self._open:
            connection.close()
        assert not self._thread.is_alive()
        if self._error and error is None:
            raise self._error

    def _run(self):
        try:
            self._script(self)
        except BaseException as error:  # what pytest.raises raises is no Exception
            self._error = error
            for connection in self._open:
                connection.close()
        finally:
            self._listener.close()  # else who comes now waits for an answer

    def accept(self):
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        self._open.append(connection)
        return connection

    def admit(self, reply="<SUCCESS>", msg="welcome", **more):
        """Read a registration and answer it; ``more`` is what only newer servers say."""
        connection = self.accept()
        self.hellos.append(json.loads(read_frame(connection)))
        connection.sendall(frame(json.dumps({"header": reply, "msg": msg} | more).encode()))
        return connection

    def send_model(self, connection, model, **dumps):
        connection.sendall(frame(pickle.dumps({"header": "<MODEL>", "model": model}, **dumps)))

    def round(self, connection, model, **dumps):
        """Send ``model``, read the answer, return the model in it."""
        self.send_model(connection, model, **dumps)
        with self.accept() as upload:
            self.answers.append(pickle.loads(read_frame(upload)))
            assert upload.recv(1) == b"", "one frame, then close"
        return self.answers[-1]["model"]

    def finish(self, connection, **more):
        connection.sendall(frame(pickle.dumps({"header": "<FINISHED>"} | more)))

    def close_the_door(self):
        """Nobody can connect from here on."""
        self._listener.close()
