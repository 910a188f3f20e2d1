"""Disks that are small, full, read-only or broken, under a server of its own.

A small disk is a tmpfs in a mount namespace of this test process: real ENOSPC and EROFS, and gone with the process. A
broken one is a library preloaded into the servers (``broken_disk.c``), which makes chosen calls on chosen files fail.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests import warm

SOURCE = Path(__file__).with_name("broken_disk.c")
CLONE_NEWNS = 0x20000


def cannot_mount() -> str | None:
    """Why this process cannot have mounts of its own; None where it can."""
    done = (
        subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, check=False
        )
        if shutil.which("unshare")
        else None
    )
    if done is None:
        return "no unshare (util-linux)"
    return None if done.returncode == 0 else f"no mount namespace: {done.stderr.strip()}"


@contextlib.contextmanager
def own_mounts() -> Iterator[None]:
    """Within the block this thread, and what it starts, have mounts that nobody else sees."""
    libc, here = ctypes.CDLL(None, use_errno=True), Path.cwd()
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        _mount("--make-rprivate", "/")
        try:
            yield
        finally:
            if libc.setns(before, CLONE_NEWNS):
                raise OSError(ctypes.get_errno(), "setns")
            os.chdir(here)
    finally:
        os.close(before)


class SmallDisk:
    """A tmpfs of ``size`` KiB at ``folder``, which is made."""

    def __init__(self, folder: Path, size: int = 8192) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={size}k,mode=755", "tmpfs", str(folder))

    def fill(self) -> None:
        """Leave no room."""
        with contextlib.suppress(OSError), (self.folder / "filling").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        (self.folder / "filling").unlink()


def make_read_only(folder: Path) -> None:
    """Lay a mount of itself over the folder in which nothing can be written, whoever has files open below."""
    _mount("--bind", str(folder), str(folder))
    _mount("-o", "remount,bind,ro", str(folder))


def make_writable(folder: Path) -> None:
    """Take that away again."""
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


class BrokenDisk:
    """What fails in the servers that have :attr:`env`."""

    def __init__(self, folder: Path) -> None:
        self._orders = folder / "broken-disk"
        self.env = {"BROKEN_DISK": str(self._orders)}

    def fails(self, call: str, on: str, number: int = errno.EIO) -> None:
        """From now on ``call`` (read, write, sync, rename) fails on files that have ``on`` in their name; where a "$"
        follows it, that end with it."""
        with self._orders.open("a") as orders:
            orders.write(f"{call} {on} {number}\n")

    def mended(self) -> None:
        self._orders.unlink()

    @property
    def failures(self) -> list[str]:
        """The calls that failed so far, each with its file."""
        log = self._orders.with_name("broken-disk.log")
        return log.read_text().splitlines() if log.exists() else []


@contextlib.contextmanager
def breakable(folder: Path) -> Iterator[None]:
    """Within the block, servers are forked from a process that has the library. Needs a C compiler."""
    library = folder / "broken_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    usual = warm._forker
    os.environ["LD_PRELOAD"] = str(library)
    try:
        forker = warm.Forker()
    finally:
        del os.environ["LD_PRELOAD"]
    with contextlib.closing(forker):
        warm._forker = forker
        try:
            yield
        finally:
            warm._forker = usual
