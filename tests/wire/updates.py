"""Updates as fleets send them, with keys of any length, and what is learnt and recognised of them."""

import io
import pickle
import re
from collections.abc import Callable
from random import Random
from typing import Any

import torch

from flserver.errors import MessageRefused, PickleRefused
from flserver.wire.layouts import Layout, Layouts, layout_of
from flserver.wire.messages import Update, decode
from flserver.wire.pickles import PickleLimits
from flserver.wire.tracing import Number, Text
from tests.fuzz.seeds import seeds

LIMITS = PickleLimits()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm = torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)
        self.tied = torch.nn.Linear(3, 2, bias=False)
        self.tied.weight = self.fc1.weight
        self.rate = 0.25


class Deep(torch.nn.Module):
    """Several of pickle's frames, with one of numbers that are outside of them in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(70))
        self.wide = torch.nn.Linear(200, 200)
        self.last = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(70))


class Changing(pickle.Pickler):
    """Pickles modules whose storages' files are changed."""

    def __init__(self, file: io.BytesIO, protocol: int, change: Callable[[bytes], bytes]) -> None:
        super().__init__(file, protocol)
        self._change, self._kept = change, list[object]()

    def reducer_override(self, obj: object) -> Any:
        if not isinstance(obj, torch.storage.TypedStorage):
            return NotImplemented
        made, (file,) = obj.__reduce__()  # type: ignore[no-untyped-call]
        self._kept.append(file)  # else another one has its id, and is taken for it
        return made, (self._change(file),)


def other_keys(random: Random, digits: int = 20) -> Callable[[bytes], bytes]:
    """Gives storages keys of other lengths. torch's own are addresses, which differ by chance."""

    def change(file: bytes) -> bytes:
        key = b"".join(b"%d" % random.randrange(10) for _ in range(random.randint(1, digits)))
        return re.sub(rb"X....\d{8,}(?=q)", b"X" + len(key).to_bytes(4, "little") + key, file, count=2)

    return change


def body_of(
    client_id: object,
    seed: int = 1,
    protocol: int = 4,
    net: Callable[[], torch.nn.Module] = Net,
    files: Callable[[bytes], bytes] | None = None,
    **more: object,
) -> bytes:
    torch.manual_seed(seed)
    message = {"header": "<MODEL>", "id": client_id, "model": net()} | more
    if files is None:
        return pickle.dumps(message, protocol)
    file = io.BytesIO()
    Changing(file, protocol, files).dump(message)
    return file.getvalue()


def machine(body: bytes) -> Update | None:
    """What the machine makes of it."""
    try:
        message = decode(memoryview(body), from_client=True, pickles=LIMITS)
    except (MessageRefused, PickleRefused):
        return None
    assert isinstance(message, Update)
    return message


def said(update: Update | None) -> Any:
    """All of a message, to be compared; NaN too."""
    if update is None:
        return None
    tensors = [
        (name, view.dtype, view.shape, view.stride, view.offset, bytes(view.storage))
        for name, view in update.model.tensors.items()
    ]
    views = list(update.model.tensors.values())
    sharing = [[one is other for other in views] for one in views]
    return repr((update.client_id, update.metrics)), tensors, sharing, update.model.steps


def learnt(*bodies: bytes, of: Layouts | None = None, owner: str = "") -> Layouts:
    known = of or Layouts()
    for body in bodies:
        update = machine(body)
        assert update is not None
        known.learn(memoryview(body), update, LIMITS, owner)
    return known


def recognised(known: Layouts, body: bytes) -> Update | None:
    return known.recognise(memoryview(body), LIMITS)


def layouts_of_seeds() -> list[tuple[bytes, Layout]]:
    found = []
    for _, body in seeds():
        try:
            message = decode(memoryview(body), from_client=True, pickles=LIMITS)
        except (MessageRefused, PickleRefused):
            continue
        if isinstance(message, Update):
            layout = layout_of(memoryview(body), message, LIMITS, lambda size: None)
            found += [(body, layout)] if layout else []
    assert len(found) > 5
    return found


def layouts_of_others() -> list[tuple[bytes, Layout]]:
    """Each with a message of other lengths."""
    found = []
    for protocol, net, client_id, other in (
        (3, Net, "alice", "bob"),
        (4, Net, 3, 70_000),
        (5, Net, "alice", "bob"),
        (4, Deep, "alice", "bob"),
    ):
        body = body_of(client_id, 1, protocol, net)
        update = machine(body)
        assert update is not None
        layout = layout_of(memoryview(body), update, LIMITS, lambda size: None)
        assert layout is not None
        found += [(body_of(other, 2, protocol, net, other_keys(Random(protocol))), layout)]
    return found


LAYOUTS = layouts_of_seeds()
OTHERS = layouts_of_others()
assert {type(layout.reading.client_id) for _, layout in LAYOUTS} == {Number, Text}


def kept(layout: Layout) -> Layouts:
    layouts = Layouts()
    layouts.known = (layout,)
    return layouts
