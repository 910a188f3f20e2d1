"""What a disk has after a power loss, as POSIX leaves it open: what was not synced may be there or not.

What is written to a file is certain once the file was synced, a name in a folder once the folder was. Of what is not
certain, each sector of each write and each change of a name is there or not, as somebody chooses.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.operations import Operation

SECTOR = 512  # bytes that a disk writes whole or not at all

Choose = Callable[[], bool]


@dataclass(eq=False)
class _File:
    """``content`` is certain, ``pending`` is not."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)


@dataclass(eq=False)
class _Folder:
    """Changes of names in it that are not certain: the name, and what has it then (None: nothing). Some go together."""

    pending: list[dict[str, "_File | _Folder | None"]] = field(default_factory=list)


Names = dict[str, _File | _Folder]


class Disk:
    """The files below a folder, which was empty, after ``operations``."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self._now: Names = {".": _Folder()}
        self._certain: Names = dict(self._now)
        for operation in operations:
            self.do(operation)

    def do(self, operation: Operation) -> None:
        """The next operation is done."""
        path, now = operation.path, self._now
        match operation.kind:
            case "create" | "mkdir":
                now[path] = _File() if operation.kind == "create" else _Folder()
                self._change({path: now[path]})
            case "rename":
                now[operation.target] = now.pop(path)
                self._change({path: None, operation.target: now[operation.target]})
            case "unlink":
                del now[path]
                self._change({path: None})
            case "write" | "truncate":
                self._file(path).pending.append(operation)
            case "fsync":
                self._sync(now[path])

    def leave(self, folder: Path, choose: Choose) -> None:
        """Make in ``folder``, which is empty, what the power loss leaves; ``choose`` says of the next thing that is not
        certain whether it is there."""
        names = dict(self._certain)
        for node in [node for node in self._now.values() if isinstance(node, _Folder)]:
            for change in node.pending:
                if choose():
                    _apply(names, change)
        for path in sorted(names):
            node, place = names[path], folder / path
            if not place.parent.is_dir():  # the folder that it was in is not there
                continue
            if isinstance(node, _Folder):
                place.mkdir(exist_ok=True)
            else:
                content = bytearray(node.content)
                for operation in node.pending:
                    for part in _sectors(operation):
                        if choose():
                            _write(content, part)
                place.write_bytes(content)

    def _file(self, path: str) -> _File:
        node = self._now[path]
        assert isinstance(node, _File), path
        return node

    def _change(self, change: dict[str, "_File | _Folder | None"]) -> None:
        folders = {os.path.dirname(path) or "." for path in change}
        assert len(folders) == 1, f"a file goes from one folder to another: {sorted(change)}"
        folder = self._now[folders.pop()]
        assert isinstance(folder, _Folder)
        folder.pending.append(change)

    def _sync(self, node: _File | _Folder) -> None:
        if isinstance(node, _Folder):
            for change in node.pending:
                _apply(self._certain, change)
        else:
            for operation in node.pending:
                _write(node.content, operation)
        node.pending.clear()


def _apply(names: Names, change: dict[str, _File | _Folder | None]) -> None:
    for path, node in change.items():
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


def _write(content: bytearray, operation: Operation) -> None:
    at, end = operation.offset, operation.offset + len(operation.data)
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    if operation.kind == "truncate":
        del content[at:]
    else:
        content[at:end] = operation.data


def _sectors(operation: Operation) -> Iterable[Operation]:
    """The parts of a write that a disk may do alone."""
    if operation.kind == "truncate":
        yield operation
        return
    at, end = operation.offset, operation.offset + len(operation.data)
    while at < end:
        until = min(end, (at // SECTOR + 1) * SECTOR)
        data = operation.data[at - operation.offset : until - operation.offset]
        yield Operation("write", operation.path, at, data)
        at = until


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` that a power loss may leave, by its path there: all but what SQLite makes anew."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
