"""A few kilobytes that stand for a quarter of a million parts: what they cost is in proportion to their bytes."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Peer, connect
from tests.e2e.hostile.attack import to_the_end
from tests.e2e.hostile.campaign import OPTIONS, resident_peak
from tests.e2e.hostile.inputs import STRANGER, upload
from tests.wire.pickle_opcodes import mapping, module, name, tensor, text

COPIES = 20  # sent at once, each on its own connection
PARTICIPANT = "m"
SECONDS = 2.0  # of the server's processor time for all of them; reading as many ordinary bytes takes a tenth
MEMORY = 48 * 2**20  # what one whole pickle may take, and a round of three

CLASS = name("m", "M")
EMPTY = tensor(shape=(0,), stride=(1,))


def lattice() -> bytes:
    """Two modules, each of the same two modules, each of the same two ...: 2**15 paths in 1.7 KB."""
    net = module() + b"q\x00"
    for level in range(15):
        below = b"h%c" % level
        net += b"0" + module(modules={"a": below, "b": below}) + b"q%c" % (level + 1)
    return net


def shared(names: int) -> bytes:
    """``names`` children that are one module, with ``names`` parameters that are one tensor without elements."""
    parameters = mapping(**{f"w{i}": b"h\x00" for i in range(names)}) + b"q\x01"
    state = text("_parameters") + b"h\x01" + text("_buffers") + b"}" + text("_modules") + b"}"
    first = CLASS + b")\x81}(" + state + b"ubq\x02"
    children = mapping(**{f"c{i}": b"h\x02" if i else first for i in range(names)})
    seen = text("seen") + b"(" + EMPTY + b"q\x00" + parameters + b"t"
    own = text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + children
    return CLASS + b")\x81}(" + seen + own + b"ub"


def long_names() -> bytes:
    return module(modules={"n" * 490: shared(450)})


@pytest.mark.parametrize("sender", [STRANGER, PARTICIPANT])
@pytest.mark.parametrize("net", [lattice, lambda: shared(450), long_names], ids=["lattice", "shared", "long names"])
def test_parts_that_are_used_again_and_again_cost_no_more_than_their_bytes(
    start: Start, join: Callable[..., list[Peer]], sender: str, net: Callable[[], bytes]
) -> None:
    wire = upload(net(), id=text(sender))
    assert len(wire) < 12_000
    server = start(*OPTIONS, "--num-rounds", "1", "--min-clients", "3", "--metrics-linger", "0")
    a, b, m = join(server, "a", "b", PARTICIPANT)
    models = [peer.model() for peer in (a, b)]
    m.model()
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    memory, seconds = resident_peak(server.process.pid), processor_seconds(server.process.pid)
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(connect(server.port)) for _ in range(COPIES)]
        for sock in senders:
            sock.sendall(wire)
        for sock in senders:
            assert to_the_end(sock) == b""
    memory, seconds = resident_peak(server.process.pid) - memory, processor_seconds(server.process.pid) - seconds
    m.connection.close()
    for peer, model in zip((a, b), models, strict=True):
        peer.upload(model)
    for peer in (a, b):
        peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT updates_accepted FROM v1_rounds WHERE round = 1") == [(2,)]
    assert memory < MEMORY
    assert seconds < SECONDS


def processor_seconds(pid: int) -> float:
    """What all threads of a process have used."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
