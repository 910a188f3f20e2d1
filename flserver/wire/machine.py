"""The pickle machine: the opcodes that C pickle writes for protocols 2 to 5, and nothing that acts.

It is no subclass of ``pickle.Unpickler``, because a perfect ``find_class`` does not help against 60 nested tuples as a
dict key (they hash for ever) or a memo index of 2**29 (8 GB). Here only ``str`` keys are hashed, the memo is a dict,
names stay names, and nothing is allocated from a size that a pickle merely claims.
"""

import struct
from collections.abc import Callable
from typing import Final

from flserver.errors import PickleRefused
from flserver.wire.inert import BackReference, Call, Instance, LongText, Name, Persistent, PickleLimits, described

_PROTO, _STOP = 0x80, 0x2E
_NAME_BYTES: Final = 512
_ORDERED_DICT: Final = Name("collections", "OrderedDict")
_SETS: Final = frozenset(
    Name(module, kind) for module in ("builtins", "__builtin__") for kind in ("set", "frozenset")
)  # protocols 2 and 3 have no opcode for sets; protocol 2 calls the module by its old name
_BACK_REFERENCE: Final = BackReference()


class Machine:
    """Reads the pickles that lie one after another in ``data`` (unsigned bytes, contiguous).

    ``position`` is the byte after the last one read, ``opcodes_left`` what remains of the budget, ``last_frame`` where
    the last FRAME opcode stands and the bytes it claims. ``persistent`` allows BINPERSID. Where ``data`` is not the
    ``whole`` of them, a frame may reach beyond it.
    """

    def __init__(self, data: memoryview, limits: PickleLimits, *, opcodes: int, persistent: bool = False) -> None:
        self.position = 0
        self.opcodes_left = opcodes
        self.last_frame: tuple[int, int] | None = None
        self._data = data
        self._limits = limits
        self._persistent = persistent
        self.whole = True
        self._reset()

    def _reset(self) -> None:
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: dict[int, object] = {}
        # The ids of the lists and dicts that were fetched from the memo. They may be part of anything by now, so
        # nothing is stored into them any more: that is what keeps the tree free of cycles.
        self._fetched: set[int] = set()

    def load(self) -> object:
        """One pickle's tree. Raises PickleRefused."""
        self._reset()
        if self._uint(1) != _PROTO or not 2 <= self._uint(1) <= 5:
            raise PickleRefused("not a pickle of protocol 2 to 5")
        data, size, table = self._data, len(self._data), _TABLE
        while True:
            position = self.position
            if position >= size:
                raise PickleRefused("the pickle ends without STOP")
            if not self.opcodes_left:
                raise PickleRefused("the pickle has too many opcodes")
            self.opcodes_left -= 1
            self.position = position + 1
            opcode = data[position]
            if opcode == _STOP:
                break
            action = table[opcode]
            if action is None:
                raise PickleRefused(f"opcode 0x{opcode:02x} at byte {position} is not read")
            action(self)
        if self._outer or len(self._stack) != 1:
            raise PickleRefused("the pickle does not end with one value")
        return self._stack.pop()

    @property
    def frames(self) -> list[list[object]]:
        """After ``load`` has raised: the values that were still open, from the outermost mark inwards."""
        return [*self._outer, self._stack]

    # --- bytes -------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes. Raises PickleRefused where there are fewer."""
        start = self.position
        if count > len(self._data) - start:
            raise PickleRefused(f"{count} bytes are claimed where {len(self._data) - start} are left")
        self.position = start + count
        return self._data[start : start + count]

    def _uint(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def _line(self) -> str:
        start = self.position
        end = bytes(self._data[start : start + _NAME_BYTES]).find(b"\n")
        if end < 0:
            raise PickleRefused("a name without an end")
        self.position = start + end + 1
        return _decoded(self._data[start : start + end])

    # --- stack -------------------------------------------------------------------------------------------------------

    def _pop(self) -> object:
        if not self._stack:
            raise PickleRefused("the pickle takes from an empty stack")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[object]:
        if not self._outer:
            raise PickleRefused("the pickle has no mark where it needs one")
        items = self._stack
        self._stack = self._outer.pop()
        return items

    def _top(self) -> object:
        if not self._stack:
            raise PickleRefused("the pickle takes from an empty stack")
        return self._stack[-1]

    def _push(self, value: object) -> None:
        self._stack.append(value)

    # --- opcodes: structure ------------------------------------------------------------------------------------------

    def _frame(self) -> None:
        at = self.position - 1
        claimed = self._uint(8)
        if self.whole and claimed > len(self._data) - self.position:
            raise PickleRefused("a frame is longer than the pickle")
        self.last_frame = (at, claimed)

    def _mark(self) -> None:
        if len(self._outer) >= self._limits.marks:
            raise PickleRefused("the pickle nests too deeply")
        self._outer.append(self._stack)
        self._stack = []

    def _put(self, index: int) -> None:
        value = self._top()
        # A pickler numbers every value once. An index used again could hide a fetched list from its bookkeeping.
        if index in self._memo:
            raise PickleRefused("a memo index is used twice")
        self._memo[index] = value

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise PickleRefused("a memo index that holds nothing")
        value = self._memo[index]
        kind = type(value)
        if kind is list or kind is dict:
            self._fetched.add(id(value))
        elif kind is Instance and not value.built:  # type: ignore[attr-defined]
            value = _BACK_REFERENCE
        self._stack.append(value)

    # --- opcodes: values ---------------------------------------------------------------------------------------------

    def _text(self, count: int) -> None:
        raw = self.take(count)
        self._stack.append(LongText(raw) if count > self._limits.text_bytes else _decoded(raw))

    def _integer(self, count: int) -> None:
        if count > self._limits.integer_bytes:
            raise PickleRefused(f"an integer of {count} bytes")
        self._stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def _float(self) -> None:
        self._stack.append(struct.unpack(">d", self.take(8))[0])

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise PickleRefused("the pickle takes from an empty stack")
        self._stack[len(self._stack) - count :] = [tuple(self._stack[len(self._stack) - count :])]

    def _append(self, items: list[object]) -> None:
        target = self._top()
        if type(target) is list:
            self._refuse_fetched(target)
            target.extend(items)
        elif type(target) is not Call and type(target) is not Instance:  # of those the items are dropped
            raise PickleRefused(f"items for {described(target)}")

    def _set_items(self, items: list[object]) -> None:
        target = self._top()
        if len(items) % 2:
            raise PickleRefused("a key without a value")
        if type(target) is dict:
            self._refuse_fetched(target)
            for key, value in zip(items[::2], items[1::2], strict=True):
                if type(key) is str:
                    target[key] = value
        elif type(target) is not Call and type(target) is not Instance:
            raise PickleRefused(f"items for {described(target)}")

    def _refuse_fetched(self, target: object) -> None:
        if id(target) in self._fetched:
            raise PickleRefused("a container grows after something referred to it")

    # --- opcodes: what would act -------------------------------------------------------------------------------------

    def _global(self) -> None:
        module = self._line()
        self._stack.append(Name(module, self._line()))

    def _stack_global(self) -> None:
        qualname, module = self._pop(), self._pop()
        if type(module) is not str or type(qualname) is not str:
            raise PickleRefused("a name that is not text")
        self._stack.append(Name(module, qualname))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(arguments) is not tuple:
            raise PickleRefused("a call without a tuple of arguments")
        if type(function) is Name:
            if function == _ORDERED_DICT and not arguments:
                return self._push({})
            if function in _SETS and len(arguments) == 1 and type(arguments[0]) is list:
                return self._push(arguments[0])  # the same list: a copy of one that is used often would add up
        return self._push(Call(function, arguments))

    def _new_object(self, extra: int) -> None:
        for _ in range(extra):
            self._pop()  # the arguments tell nothing about tensors
        self._stack.append(Instance(self._pop()))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if type(target) is Instance:
            if target.built:
                raise PickleRefused(f"{described(target)} is given a state twice")
            target.built, target.state = True, state
        elif type(target) not in (Call, dict, list):  # of those the state is dropped
            raise PickleRefused(f"a state for {described(target)}")

    def _persistent_id(self) -> None:
        if not self._persistent:
            raise PickleRefused("a persistent id outside a storage's file")
        self._stack.append(Persistent(self._pop()))


def _decoded(raw: memoryview) -> str:
    try:
        return str(raw, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise PickleRefused("text that is not UTF-8") from error


# Opcodes that older protocols, other picklers or attackers write are not here, among them INST, OBJ, EXT1 to EXT4, DUP
# and the textual ones: C pickle of Python 3.8 and later writes none of them for protocols 2 to 5.
_ACTIONS: Final[dict[bytes, Callable[[Machine], object]]] = {
    b"\x95": Machine._frame,
    b"(": Machine._mark,
    b"0": Machine._pop,
    b"1": Machine._pop_to_mark,
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"K": lambda m: m._push(m._uint(1)),
    b"M": lambda m: m._push(m._uint(2)),
    b"J": lambda m: m._integer(4),
    b"\x8a": lambda m: m._integer(m._uint(1)),
    b"\x8b": lambda m: m._integer(m._uint(4)),
    b"G": Machine._float,
    b"\x8c": lambda m: m._text(m._uint(1)),
    b"X": lambda m: m._text(m._uint(4)),
    b"\x8d": lambda m: m._text(m._uint(8)),
    b"C": lambda m: m._push(m.take(m._uint(1))),
    b"B": lambda m: m._push(m.take(m._uint(4))),
    b"\x8e": lambda m: m._push(m.take(m._uint(8))),
    b"\x96": lambda m: m._push(m.take(m._uint(8))),
    b")": lambda m: m._push(()),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"t": lambda m: m._push(tuple(m._pop_to_mark())),
    b"]": lambda m: m._push([]),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._pop_to_mark()),
    b"\x8f": lambda m: m._push([]),
    b"\x90": lambda m: m._append(m._pop_to_mark()),
    b"\x91": lambda m: m._push(m._pop_to_mark()),
    b"}": lambda m: m._push({}),
    b"s": lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m._set_items(m._pop_to_mark()),
    b"c": Machine._global,
    b"\x93": Machine._stack_global,
    b"R": Machine._reduce,
    b"\x81": lambda m: m._new_object(1),
    b"\x92": lambda m: m._new_object(2),
    b"b": Machine._build,
    b"q": lambda m: m._put(m._uint(1)),
    b"r": lambda m: m._put(m._uint(4)),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"h": lambda m: m._get(m._uint(1)),
    b"j": lambda m: m._get(m._uint(4)),
    b"Q": Machine._persistent_id,
}
_TABLE: Final = [_ACTIONS.get(bytes([opcode])) for opcode in range(256)]
