"""Lies in the server's folder: naming it is enough for an unpickler to run it."""

from pathlib import Path

Path(__file__).with_name("ran").touch()


class Net:
    pass
