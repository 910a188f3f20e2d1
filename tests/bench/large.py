"""Bodies over 4 GiB, where lengths no longer fit in 32 bits: each part by itself, in a process of its own.

    python -m tests.bench.large --part framing --gb 4.5 --dir FOLDER

``framing``: a body that a streaming peer makes up as it goes is received. ``machine``: one is read. ``template``: one
is made of a module, overwritten, and sent to a peer that keeps nothing. ``checkpoint``: a state is written and read
again. ``round``: a whole round of a server process, with a trainer that keeps the model in a file, and a start that
goes on from it. Prints one JSON line. Peak memory is told in model sizes, and is all that the process has: some 0.5 GB
of it are torch.
"""

import argparse
import json
import mmap
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.driver import ROOT, environment
from tests.bench.wire import receive_exactly, receive_length

PIECE = 1 << 20  # bytes that a peer has at once
SMALL = 4096  # bytes; <FINISHED> is smaller, every model larger
SECONDS = 3600.0  # that a part may take
Figures = dict[str, int]
"""Peaks in bytes; ``before`` is that of the process before the part began, 0 where it is another process's."""


def peak() -> int:
    """The most memory (bytes) that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def numbers_of(size: int) -> int:
    """How many float32 a model of ``size`` bytes has."""
    return size // 4


def large_module(size: int):  # type: ignore[no-untyped-def]  # torch comes late: what it takes is measured
    """One tensor of nearly all ``size`` bytes, and small ones around it."""
    import torch
    from torch import nn

    module = nn.Module()
    module.register_parameter("first", nn.Parameter(torch.ones(10)))
    module.register_parameter("large", nn.Parameter(torch.zeros(numbers_of(size) - 20)))
    module.register_buffer("last", torch.full((10,), 2.0))
    return module


def pieces_of(size: int) -> Iterator[bytes]:
    """A pickle of ``size`` bytes that is one long bytes object."""
    head, tail = b"\x80\x04\x8e", b"."
    payload = size - len(head) - 8 - len(tail)
    yield head + payload.to_bytes(8, "little")
    piece = os.urandom(PIECE)
    for at in range(0, payload, PIECE):
        yield piece[: min(PIECE, payload - at)]
    yield tail


def framing(size: int, folder: Path) -> Figures:
    """A body is received from a socket."""
    from flserver.clock import Deadline
    from flserver.network.channel import Channel
    from flserver.network.memory import ReceiveMemory
    from flserver.network.transport import Pace, Received, receive_frame
    from flserver.wire.framing import FrameLimits, FrameReader, encode_length

    memory = ReceiveMemory(2 * size, size, folder)
    ours, theirs = socket.socketpair()

    def stream() -> None:
        with theirs:
            theirs.sendall(encode_length(size))
            for piece in pieces_of(size):
                theirs.sendall(piece)

    peer = threading.Thread(target=stream)
    before = peak()
    frame = Received(FrameReader(FrameLimits(pickle=size)))
    with ours:
        peer.start()
        receive_frame(
            Channel(ours),
            frame,
            lambda length: memory.take(length, "a client", 2 * size),
            Deadline.after(SECONDS),
            Pace(whole=SECONDS),
        )
        peer.join()
    body = frame.hold()
    assert (len(body), bytes(body[:3]), bytes(body[-1:])) == (size, b"\x80\x04\x8e", b".")
    return {"before": before}


def machine(size: int, folder: Path) -> Figures:
    """A message is read, its tensors included. It lies in a file that is mostly a hole."""
    import torch

    from flserver.models.state import as_tensor
    from flserver.wire.messages import Update, decode
    from flserver.wire.pickles import PickleLimits
    from tests.wire.pickle_opcodes import file, integer, mapping, module, name, tensor, text

    numbers = numbers_of(size)
    prefix = file(elements=numbers, data=b"")
    token = b"<the numbers>"
    call = name("torch.storage", "_load_from_bytes") + token + b"\x85R"
    model = module({"large": tensor(call, 0, (numbers,), (1,))})
    message = b"\x80\x04" + mapping(header=text("<MODEL>"), id=integer(3), model=model) + b"."
    head, tail = message.split(token)
    head += b"\x8e" + (len(prefix) + 4 * numbers).to_bytes(8, "little") + prefix
    length = len(head) + 4 * numbers + len(tail)
    with tempfile.TemporaryFile(dir=folder) as sparse:
        os.ftruncate(sparse.fileno(), length)
        os.pwrite(sparse.fileno(), head, 0)
        os.pwrite(sparse.fileno(), b"\0\0\x80\x3f" + tail, length - len(tail) - 4)
        body = mmap.mmap(sparse.fileno(), length)
    before = peak()
    update = decode(memoryview(body), from_client=True, pickles=PickleLimits())
    assert isinstance(update, Update)
    found = as_tensor(update.model.tensors["large"])
    assert found.shape == (numbers,)
    assert torch.equal(found[-2:], torch.tensor([0.0, 1.0]))
    return {"before": before}


def template(size: int, folder: Path) -> Figures:
    """A module becomes a message, which is overwritten, sent, and answered with."""
    import torch

    from flserver.models.state import state_of, write_state
    from flserver.network.channel import Channel
    from flserver.network.transport import Pace, send_frame
    from flserver.process.prepare import template_of

    module = large_module(size)
    state = state_of(module, shared=True)
    before = peak()
    made = template_of(module, "large")
    assert len(made.buffer) > size - 100
    state["last"] = torch.arange(10.0)
    write_state(made.module, state)
    ours, theirs = socket.socketpair()
    ended = bytearray()

    def take() -> None:
        with theirs:
            for piece in received(theirs):
                ended[:] = (ended + piece)[-1000:]

    peer = threading.Thread(target=take)
    peer.start()
    with ours:
        send_frame(Channel(ours), memoryview(made.buffer), Pace(whole=SECONDS))
        peer.join()
    assert torch.arange(10.0).numpy().tobytes() in ended
    assert sum(map(len, made.answer(id=3))) > len(made.buffer)
    return {"before": before}


def checkpoint(size: int, folder: Path) -> Figures:
    """A state is written, durable, and read again."""
    import torch

    from flserver.models.checkpoint import CheckpointStore
    from flserver.models.state import state_of

    state = state_of(large_module(size), shared=True)
    store = CheckpointStore(folder, "large")
    store.prepare()
    before = peak()
    written = store.write(1, state, {"own": torch.ones(3)})
    model, own = store.read(written.path, written.digest)
    assert {name: tensor.shape for name, tensor in model.items()} == {n: t.shape for n, t in state.items()}
    assert (model["first"].sum(), model["large"][-1], model["last"].sum(), own["own"].sum()) == (10, 0, 20, 3)
    return {"before": before}


def received(connection: socket.socket) -> Iterator[bytes]:
    """The pieces of the body of the next frame."""
    left = receive_length(connection)
    while left:
        piece = connection.recv(min(PIECE, left))
        if not piece:
            raise EOFError(f"the connection ended {left} bytes early")
        left -= len(piece)
        yield piece


def one_round(size: int, folder: Path) -> Figures:
    """A server process makes a round with one trainer: its peak when it waits for trainers, and at its end. Then
    another goes on from there: its peak when it waits for trainers."""
    with Server(size, folder, "--num-rounds", "1") as server:
        start = server.until("state: joining")
        trainer = threading.Thread(target=train, args=(server.port, folder))
        trainer.start()
        whole = max(start, server.until(None))
        trainer.join()
    with Server(size, folder, "--num-rounds", "2", "--resume") as server:
        resumed = server.until("state: joining")
        server.process.terminate()
        server.until(None)
    return {"before": 0, "start_peak": start, "resume_peak": resumed, "peak": whole}


class Server:
    """A server process, and the most memory (bytes) that it has had at each of its lines."""

    def __init__(self, size: int, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "flserver", "--db", str(folder / "bench.sqlite"), "--time-to-wait", "0"]
        command += ["--model", "tests.bench.models:of_megabytes", "--server-port", "0", "--metrics-port", "0"]
        env = environment() | {"BENCH_MEGABYTES": str(size / 1e6)}
        self.port = 0
        self.process = subprocess.Popen(
            [*command, *options], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._lines: list[str] = []

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.process.kill()
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self.process.wait() not in (0, 3):
            raise SystemExit("".join(self._lines[-20:]))

    def until(self, said: str | None) -> int:
        """The peak when it has said this; None is its end."""
        most, status = 0, Path(f"/proc/{self.process.pid}/status")
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append(line)
            most = max(most, high_water(status))
            if found := re.search(r"listening for trainers on .*:(\d+)$", line):
                self.port = int(found[1])
            if said is not None and said in line:
                break
        return most


def high_water(status: Path) -> int:
    """The most memory (bytes) that a process has had; 0 when it is gone."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    except ProcessLookupError:
        return 0
    return 1024 * int(found[1]) if found else 0


def train(port: int, folder: Path) -> None:
    """A trainer that has a model in a file only, and answers with the same one."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        hello = json.dumps({"header": "<METADATA>", "id": 1, "data_size": 10}).encode()
        connection.sendall(len(hello).to_bytes(8, "big") + hello)
        receive_exactly(connection, memoryview(bytearray(receive_length(connection))))
        tail = b"X\x02\0\0\0idK\x01s."  # the id, one item more of the message, and its end
        while True:
            with tempfile.TemporaryFile(dir=folder) as kept:
                for piece in received(connection):
                    kept.write(piece)
                length = kept.tell()
                if length < SMALL:
                    return
                kept.truncate(length - 1)
                kept.seek(0)
                with socket.create_connection(("127.0.0.1", port)) as upload:
                    upload.sendall((length - 1 + len(tail)).to_bytes(8, "big"))
                    while piece := kept.read(PIECE):
                        upload.sendall(piece)
                    upload.sendall(tail)


PARTS: dict[str, Callable[[int, Path], Figures]] = {
    "framing": framing,
    "machine": machine,
    "template": template,
    "checkpoint": checkpoint,
    "round": one_round,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", required=True, choices=PARTS)
    parser.add_argument("--gb", type=float, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    given = parser.parse_args()
    size, started = round(given.gb * 1e9), time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.dir, prefix="bench-") as folder:
        figures = PARTS[given.part](size, Path(folder))
    before = figures.pop("before")
    peaks = {"peak": peak()} | {name: value for name, value in figures.items() if name.endswith("peak")}
    peaks |= {"peak_of_the_model": peaks["peak"] - before} if before else {}
    in_models = {f"{name}_in_models": round(value / size, 2) for name, value in peaks.items()}
    seconds = round(time.monotonic() - started, 2)
    print(json.dumps({"part": given.part, "gb": given.gb, "seconds": seconds} | in_models))


if __name__ == "__main__":
    main()
