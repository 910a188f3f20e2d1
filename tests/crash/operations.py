"""What a process does to the files below a folder, told as it does it: by ``os``, by SQLite, by its transactions.

``os``'s functions are replaced by ones that tell, and of SQLite's default VFS the few methods that write: that needs
neither a compiler nor a tracer. Whether all is told is checked: what is told, done again elsewhere, must give the same
files (``tests.crash.disk``).
"""

import _sqlite3
import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flserver import faults

Kind = Literal["create", "mkdir", "write", "truncate", "fsync", "rename", "unlink", "commit", "committed"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of ``kind`` on the file or folder at ``path`` below the watched folder.

    ``data`` is written at ``offset``; a truncated file is ``offset`` bytes long; a renamed one is then at ``target``.
    """

    kind: Kind
    path: str
    offset: int = 0
    data: bytes = b""
    target: str = ""


Tell = Callable[[Operation], None]


def watch(folder: Path, before: Tell, after: Tell) -> None:
    """From now on, in this process, tell each operation below ``folder`` ``before`` it is done, and ``after`` that."""
    watched = _Watched(os.path.realpath(folder), before, after)
    _watch_os(watched)
    _watch_sqlite(watched)
    faults.install(lambda step: watched.tell(Operation(step, ""), lambda: None))


class _Watched:
    def __init__(self, folder: str, before: Tell, after: Tell) -> None:
        self._folder, self._before, self._after = folder, before, after

    def name(self, path: Any) -> str | None:
        """Where ``path``, or what is open as that number, is below the folder; None where it is not."""
        if isinstance(path, int):
            full = os.readlink(f"/proc/self/fd/{path}")
        else:
            full = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))
        if full == self._folder:
            return "."
        return full[len(self._folder) + 1 :] if full.startswith(self._folder + "/") else None

    def tell(self, operation: Operation, do: Callable[[], Any]) -> Any:
        self._before(operation)
        result = do()
        self._after(operation)
        return result


def _watch_os(watched: _Watched) -> None:
    real = {
        name: getattr(os, name)
        for name in ("open", "write", "pwrite", "fsync", "rename", "unlink", "mkdir", "ftruncate")
    }

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def do() -> int:
            return int(real["open"](path, flags, mode, dir_fd=dir_fd))

        name = watched.name(path) if flags & os.O_CREAT and dir_fd is None else None
        if name is None or os.path.lexists(path):
            return do()
        return int(watched.tell(Operation("create", name), do))

    def write(descriptor: int, data: Any) -> int:
        name = watched.name(descriptor)
        if name is None:
            return int(real["write"](descriptor, data))
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        return int(watched.tell(Operation("write", name, at, bytes(data)), lambda: real["write"](descriptor, data)))

    def pwrite(descriptor: int, data: Any, at: int) -> int:
        name = watched.name(descriptor)
        if name is None:
            return int(real["pwrite"](descriptor, data, at))
        return int(
            watched.tell(Operation("write", name, at, bytes(data)), lambda: real["pwrite"](descriptor, data, at))
        )

    def on_path(kind: Kind) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            name = watched.name(path) if not named.get("dir_fd") else None
            if name is None:
                return real[kind](path, *arguments, **named)
            return watched.tell(Operation(kind, name), lambda: real[kind](path, *arguments, **named))

        return call

    def rename(source: Any, target: Any) -> None:
        name, to = watched.name(source), watched.name(target)
        if name is None or to is None:
            real["rename"](source, target)
        else:
            watched.tell(Operation("rename", name, target=to), lambda: real["rename"](source, target))

    def ftruncate(descriptor: int, length: int) -> None:
        name = watched.name(descriptor)
        if name is None:
            real["ftruncate"](descriptor, length)
        else:
            watched.tell(Operation("truncate", name, length), lambda: real["ftruncate"](descriptor, length))

    replaced: dict[str, Any] = {"open": open_, "write": write, "pwrite": pwrite, "rename": rename, "replace": rename}
    replaced |= {"remove": on_path("unlink"), "ftruncate": ftruncate, "fdatasync": on_path("fsync")}
    replaced |= {kind: on_path(kind) for kind in ("fsync", "unlink", "mkdir")}
    for name, function in replaced.items():
        setattr(os, name, function)


# --- SQLite: the layout of sqlite3_vfs, sqlite3_io_methods and sqlite3_file, as sqlite3.h has them -------------------

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
OPEN_CREATE, OPEN_MAIN_DB, OPEN_MAIN_JOURNAL, OPEN_WAL = 0x4, 0x100, 0x800, 0x80000
OK = 0

# SQLite keeps the address of the path, and reads on behind its end: it is handed on as an address.
XOpen = ctypes.CFUNCTYPE(INT, POINTER, POINTER, POINTER, INT, POINTER)
XDelete = ctypes.CFUNCTYPE(INT, POINTER, ctypes.c_char_p, INT)
XWrite = ctypes.CFUNCTYPE(INT, POINTER, POINTER, INT, LONG)
XTruncate = ctypes.CFUNCTYPE(INT, POINTER, LONG)
XSync = ctypes.CFUNCTYPE(INT, POINTER, INT)


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("version", INT),
        ("file_size", INT),
        ("longest_path", INT),
        ("next", POINTER),
        ("name", ctypes.c_char_p),
        ("own", POINTER),
        ("open", POINTER),
        ("delete", POINTER),
    )


class _Methods(ctypes.Structure):
    _fields_ = (
        ("version", INT),
        ("close", POINTER),
        ("read", POINTER),
        ("write", POINTER),
        ("truncate", POINTER),
        ("sync", POINTER),
        ("others", POINTER * 13),
    )


class _File(ctypes.Structure):
    _fields_ = (("methods", ctypes.POINTER(_Methods)),)


_kept: list[Any] = []  # what C calls


def _watch_sqlite(watched: _Watched) -> None:
    """Raises AttributeError where Python's SQLite does not show its functions."""
    find = ctypes.CDLL(_sqlite3.__file__).sqlite3_vfs_find
    find.restype = ctypes.POINTER(_Vfs)
    vfs = find(None).contents
    real_open, real_delete = XOpen(vfs.open), XDelete(vfs.delete)
    names: dict[int, str] = {}  # by the address of the open file
    unsynced: set[int] = set()  # those that were made, and whose first fsync is one of their folder too
    replaced: dict[int, _Methods] = {}  # by the address of those that they replace

    def told(operation: Operation, do: Callable[[], int]) -> int:
        code = OK

        def once() -> None:
            nonlocal code
            code = do()

        watched.tell(operation, once)
        return code

    def of(address: int) -> _Methods:
        if address not in replaced:
            replaced[address] = _told_methods(_Methods.from_address(address), names, unsynced, told)
        return replaced[address]

    def open_(own: int, address: int | None, file: int, flags: int, out: int) -> int:
        def do() -> int:
            return int(real_open(own, address, file, flags, out))

        if not address or not flags & (OPEN_MAIN_DB | OPEN_MAIN_JOURNAL | OPEN_WAL):
            return do()
        path = os.fsdecode(ctypes.string_at(address))
        name = watched.name(path)
        if name is None:
            return do()
        new = bool(flags & OPEN_CREATE) and not os.path.lexists(path)
        code = told(Operation("create", name), do) if new else do()
        opened = _File.from_address(file)
        if code == OK and opened.methods:
            names[file] = name
            unsynced.discard(file)
            if new and not flags & OPEN_MAIN_DB:
                unsynced.add(file)
            opened.methods = ctypes.pointer(of(ctypes.addressof(opened.methods.contents)))
        return code

    def delete(own: int, path: bytes, sync: int) -> int:
        name = watched.name(os.fsdecode(path))
        if name is None or not os.path.lexists(path):
            return int(real_delete(own, path, sync))
        code = told(Operation("unlink", name), lambda: real_delete(own, path, sync))
        if sync:
            told(Operation("fsync", os.path.dirname(name) or "."), lambda: OK)
        return code

    callbacks = XOpen(open_), XDelete(delete)
    _kept.append((callbacks, replaced))
    vfs.open, vfs.delete = (ctypes.cast(callback, POINTER) for callback in callbacks)


def _told_methods(
    real: _Methods, names: dict[int, str], unsynced: set[int], told: Callable[[Operation, Callable[[], int]], int]
) -> _Methods:
    """Methods as the ``real`` ones, whose writes, truncations and fsyncs are told."""
    real_write, real_truncate, real_sync = XWrite(real.write), XTruncate(real.truncate), XSync(real.sync)

    def write(file: int, data: int, size: int, offset: int) -> int:
        operation = Operation("write", names[file], offset, ctypes.string_at(data, size))
        return told(operation, lambda: real_write(file, data, size, offset))

    def truncate(file: int, size: int) -> int:
        return told(Operation("truncate", names[file], size), lambda: real_truncate(file, size))

    def sync(file: int, flags: int) -> int:
        code = told(Operation("fsync", names[file]), lambda: real_sync(file, flags))
        if file in unsynced:
            unsynced.remove(file)
            told(Operation("fsync", os.path.dirname(names[file]) or "."), lambda: OK)
        return code

    methods = _Methods.from_buffer_copy(real)
    callbacks = XWrite(write), XTruncate(truncate), XSync(sync)
    _kept.append(callbacks)
    methods.write, methods.truncate, methods.sync = (ctypes.cast(callback, POINTER) for callback in callbacks)
    return methods
