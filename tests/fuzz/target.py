"""What both ends do with the bytes of one frame, all of it, and what must hold afterwards. No torch in here."""

from collections.abc import Callable
from contextlib import suppress

from flserver.errors import MessageRefused, PickleRefused
from flserver.wire.dtypes import DTYPES
from flserver.wire.layouts import layout_of
from flserver.wire.messages import GlobalModel, Message, Update, decode
from flserver.wire.modules import Module, TensorView
from flserver.wire.pickles import PickleLimits
from flserver.wire.pieces import frames_of
from flserver.wire.repeats import Repeats
from flserver.wire.template import Template
from tests.fuzz.watch import Watched, one_short_line, watched

SECONDS = 1.0  # of the processor for one input
SUSPICIOUS = 0.02
TRACED = 8  # times as long an input may take while its memory is traced
MEMORY = 30e6, 100  # bytes, whatever the input: what the limits in PickleLimits add up to; and for each byte of it

USUAL = PickleLimits()
# So tight that an input of some hundred bytes meets every limit; the length of an input chooses its own.
TIGHT = (
    PickleLimits(text_bytes=64),
    PickleLimits(opcodes=300, marks=6, integer_bytes=2),
    PickleLimits(depth=1, dimensions=1),
    PickleLimits(steps=24),
    PickleLimits(name_length=6, names_length=24),
)


class Defect(Exception):
    """What must not happen, whatever the input is."""


def try_input(body: bytes, *, memory: bool = True, reader: Callable[[bytes], object] | None = None) -> Watched[object]:
    """What it costs to read ``body`` in every way there is. Raises Defect, or whatever the reading raised.

    Without ``memory`` its memory is measured only if it took long: filling memory takes time.
    """
    reader = reader or read_in_every_way
    found = watched(reader, body, memory=memory)
    if found.raised is not None:
        raise found.raised
    if found.acts:
        raise Defect(f"it acts: {found.acts[:5]}")
    if found.seconds > SECONDS * (TRACED if memory else 1):
        raise Defect(f"{found.seconds:.1f} s of the processor for {len(body)} bytes")
    if found.peak > MEMORY[0] + MEMORY[1] * len(body):
        raise Defect(f"{found.peak / 1e6:.0f} MB for {len(body)} bytes")
    if not memory and found.seconds > SUSPICIOUS:
        return try_input(body, reader=reader)
    return found


def read_in_every_way(body: bytes) -> int:
    """As the server reads it, as the trainer does (twice), and with tight limits; returns by how many it is taken."""
    update = _decoded(body, from_client=True, limits=USUAL)
    told = _decoded(body, from_client=False, limits=USUAL)
    _decoded(body, from_client=True, limits=TIGHT[len(body) % len(TIGHT)])
    if update is not None:
        _unchanged(update, _decoded(shortened(body), from_client=True, limits=USUAL))
        _recognised(body, update)
    template = _template(body)
    if isinstance(told, GlobalModel) and template is not None:
        _same(told.model, template.module)
        _answered(template)
    return sum(way is not None for way in (update, told, template))


def _decoded(body: bytes, *, from_client: bool, limits: PickleLimits) -> Message | None:
    try:
        message = decode(memoryview(body), from_client=from_client, pickles=limits)
    except (MessageRefused, PickleRefused) as error:
        _recordable(error)
        return None
    if isinstance(message, Update | GlobalModel):
        _walk(message.model, body)
    return message


def shortened(body: bytes) -> bytes:
    """What is kept of a body that arrives in pieces, their sizes made of its own, with whatever repeats taken out."""
    kept, repeats, arrived = bytearray(), Repeats(USUAL.opcodes, least=4), 0
    while arrived < len(body):
        piece = body[arrived : arrived + 1 + (len(body) + arrived) % 97]
        arrived += len(piece)
        kept += piece
        with memoryview(kept) as view:
            left = repeats.drop(view)
        del kept[left:]
    return bytes(kept)


def _unchanged(update: Message, shorter: Message | None) -> None:
    if not isinstance(update, Update):
        return  # JSON: nothing is taken out of it
    if not isinstance(shorter, Update) or _said(update) != _said(shorter):
        raise Defect("another message once what repeats is taken out, or of a layout that is known")
    _same(update.model, shorter.model)


def _recognised(body: bytes, update: Message) -> None:
    """What is of the layout of a message is read as the machine reads it: with other numbers, or with a byte changed
    anywhere, which the body chooses."""
    if not isinstance(update, Update):
        return
    layout = layout_of(memoryview(body), update, USUAL, lambda size: None)
    if layout is None:
        return
    if not layout.fits(memoryview(body)):
        raise Defect("a message that is not of its own layout")
    places = [part.stop for part in layout.rest[:-1]]
    for at in [*places[:4], *places[-4:], len(body) * 7919 % 613 % len(body)]:
        other = bytearray(body)
        other[at] ^= 1 + len(body) % 255
        found = layout.fits(memoryview(other)) or layout.found(memoryview(other), frames_of(memoryview(other)))
        if found is not None:
            with suppress(MessageRefused, UnicodeDecodeError):  # no id: it is left to the machine
                _unchanged(found.update(memoryview(other)), _decoded(bytes(other), from_client=True, limits=USUAL))


def _said(update: Update) -> str:
    """What it says of itself, NaN too."""
    return repr((update.client_id, update.metrics))


def _template(body: bytes) -> Template | None:
    try:
        template = Template(bytearray(body))
    except PickleRefused as error:
        _recordable(error)
        return None
    if any(view.storage.readonly for view in template.module.tensors.values()):
        raise Defect("a template that cannot be written into")
    return template


def _answered(template: Template) -> None:
    """The server reads the trainer's answer, whatever message it is written into, or refuses it."""
    answer = b"".join(template.answer(id=3, metrics={"loss": {"received": 0.5}}))
    read = _decoded(answer, from_client=True, limits=USUAL)
    if read is None:
        return
    if not isinstance(read, Update) or read.client_id != "3" or [m.value for m in read.metrics] != [0.5]:
        raise Defect("an answer without what was added to it")
    _same(read.model, template.module)


def _recordable(error: MessageRefused | PickleRefused) -> None:
    header = error.header if isinstance(error, MessageRefused) else None
    if not one_short_line(str(error)) or not one_short_line(header or ""):
        raise Defect(f"a reason that is not one short line: {str(error)!a:.500}") from error


def _walk(module: Module, body: bytes) -> None:
    """Everything that is asked of a module: names, geometry, and the bytes at both ends of each view."""
    storages: dict[int, int] = {}
    for name, view in module.tensors.items():
        if not all(name.split(".")) or len(name) > USUAL.name_length:
            raise Defect(f"torch has no tensor named {name!a:.80}")
        _within(view)
        storages[id(view.storage)] = view.storage.nbytes
    if sum(storages.values()) > len(body):
        raise Defect("more bytes in storages than came in")


def _within(view: TensorView) -> None:
    item = DTYPES[view.dtype].size
    elements, rest = divmod(view.storage.nbytes, item)
    numbers = (*view.shape, *view.stride, view.offset)
    if rest or len(view.shape) != len(view.stride) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise Defect(f"a view that is none: {view!a:.300}")
    count, last = 1, view.offset
    for size, step in zip(view.shape, view.stride, strict=True):
        count *= size
        last += (size - 1) * step
    if count > elements or view.offset > elements:
        raise Defect(f"{count} elements from {view.offset} on in a storage of {elements}")
    if count:
        _ = view.storage[view.offset * item], view.storage[last * item + item - 1]  # IndexError where it reaches out


def _same(one: Module, other: Module) -> None:
    if list(one.tensors) != list(other.tensors):
        raise Defect("two readings of one model differ in names")
    for view, twin in zip(one.tensors.values(), other.tensors.values(), strict=True):
        if (view.dtype, view.shape, view.stride, view.offset) != (twin.dtype, twin.shape, twin.stride, twin.offset):
            raise Defect("two readings of one model differ in geometry")
        if view.storage != twin.storage:
            raise Defect("two readings of one model differ in numbers")
