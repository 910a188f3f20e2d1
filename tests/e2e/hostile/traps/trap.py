"""Lies in the server's folder, where an import would find it. Each class leaves the marker in one way only."""

from pathlib import Path

MARKER = Path(__file__).with_name("ran")


def spring(*_: object, **__: object) -> None:
    MARKER.touch()


class New:
    def __new__(cls, *_: object, **__: object) -> "New":
        spring()
        return super().__new__(cls)


class Init:
    def __init__(self, *_: object) -> None:
        spring()


class State:
    __setstate__ = spring


class Attribute:
    def __getattr__(self, name: str) -> object:
        spring()
        raise AttributeError(name)


class Setter:
    number = property(None, spring)


class Items:
    append = extend = add = __setitem__ = spring


class Key:
    def __hash__(self) -> int:
        spring()
        return 0


class Last:
    __del__ = spring
