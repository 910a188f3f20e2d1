"""The pickle machine: the opcodes that C pickle writes for protocols 2 to 5, and nothing that acts.

It is no subclass of ``pickle.Unpickler``, because a perfect ``find_class`` does not help against 60 nested tuples as a
dict key (they hash for ever) or a memo index of 2**29 (8 GB). Here only ``str`` keys are hashed, the memo is a dict,
names stay names, and nothing is allocated from a size that a pickle merely claims.
"""

import struct
from collections.abc import Callable
from typing import ClassVar, Final

from flserver.errors import PickleRefused
from flserver.wire.inert import Call, Instance, LongText, Name, Persistent, PickleLimits, Tick, described, unmetered
from flserver.wire.stack import CHARACTER, KEY, TABLE, TEXT, VALUE, VIEW, Stack

_PROTO, _STOP = 0x80, 0x2E
_NAME_BYTES: Final = 512
_ORDERED_DICT: Final = Name("collections", "OrderedDict")
_SETS: Final = frozenset(
    Name(module, kind) for module in ("builtins", "__builtin__") for kind in ("set", "frozenset")
)  # protocols 2 and 3 have no opcode for sets; protocol 2 calls the module by its old name
SLICE: Final = 512  # opcodes between two ticks


class Machine(Stack):
    """Reads the pickles that lie one after another in ``data`` (unsigned bytes, contiguous).

    ``position`` is the byte after the last one read, ``opcodes_left`` what remains of the budget, ``last_frame`` where
    the last FRAME opcode stands and the bytes it claims. ``persistent`` allows BINPERSID. Where ``data`` is not the
    ``whole`` of them, a frame may reach beyond it. ``tick`` is called before every ``SLICE`` opcodes; ``table`` has
    what each opcode does.
    """

    table: "ClassVar[list[Action | None]]"

    def __init__(
        self,
        data: memoryview,
        limits: PickleLimits,
        *,
        opcodes: int,
        persistent: bool = False,
        tick: Tick = unmetered,
    ) -> None:
        super().__init__(limits, tick)
        self.position = 0
        self.opcodes_left = opcodes
        self.last_frame: tuple[int, int] | None = None
        self._data = data
        self._persistent = persistent
        self.whole = True

    def load(self) -> object:
        """One pickle's tree. Raises PickleRefused."""
        self._reset()
        if self._uint(1) != _PROTO or not 2 <= self._uint(1) <= 5:
            raise PickleRefused("not a pickle of protocol 2 to 5")
        data, size, table, left = self._data, len(self._data), self.table, self.opcodes_left
        try:
            while True:
                position = self.position
                if position >= size:
                    raise PickleRefused("the pickle ends without STOP")
                if not left % SLICE:
                    if not left:
                        raise PickleRefused("the pickle has too many opcodes")
                    self._weigh(SLICE * VALUE, now=True)
                left -= 1
                self.position = position + 1
                opcode = data[position]
                if opcode == _STOP:
                    break
                action = table[opcode]
                if action is None:
                    raise PickleRefused(f"opcode 0x{opcode:02x} at byte {position} is not read")
                action(self)
        finally:
            self.opcodes_left = left
        if self._outer or len(self._stack) != 1:
            raise PickleRefused("the pickle does not end with one value")
        return self._stack.pop()

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
        return self._decoded(self._data[start : start + end])

    def _decoded(self, raw: memoryview) -> str:
        self._weigh(TEXT + CHARACTER * len(raw))
        try:
            return str(raw, "utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise PickleRefused("text that is not UTF-8") from error

    # --- opcodes: structure ------------------------------------------------------------------------------------------

    def _frame(self) -> None:
        at = self.position - 1
        claimed = self._uint(8)
        if self.whole and claimed > len(self._data) - self.position:
            raise PickleRefused("a frame is longer than the pickle")
        self.last_frame = (at, claimed)

    # --- opcodes: values ---------------------------------------------------------------------------------------------

    def _text(self, count: int) -> None:
        raw = self.take(count)
        self._stack.append(LongText(raw) if count > self._limits.text_bytes else self._decoded(raw))

    def _integer(self, count: int) -> None:
        if count > self._limits.integer_bytes:
            raise PickleRefused(f"an integer of {count} bytes")
        self._owed += 2 * count
        self._stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def _bytes(self, count: int) -> None:
        self._owed += VIEW
        self._stack.append(self.take(count))

    def _float(self) -> None:
        self._stack.append(struct.unpack(">d", self.take(8))[0])

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise PickleRefused("the pickle takes from an empty stack")
        parts = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self._made(parts, parts)

    def _append(self, items: list[object]) -> None:
        target = self._top()
        if type(target) is list:
            self._refuse_fetched(target)
            self._holds(target, items)
            target.extend(items)
        elif type(target) is not Call and type(target) is not Instance:  # of those the items are dropped
            raise PickleRefused(f"items for {described(target)}")

    def _set_items(self, items: list[object]) -> None:
        target = self._top()
        if len(items) % 2:
            raise PickleRefused("a key without a value")
        if type(target) is dict:
            self._refuse_fetched(target)
            self._holds(target, items[1::2])
            self._weigh((0 if target else TABLE) + KEY * (len(items) // 2))
            for key, value in zip(items[::2], items[1::2], strict=True):
                if type(key) is str:
                    target[key] = value
        elif type(target) is not Call and type(target) is not Instance:
            raise PickleRefused(f"items for {described(target)}")

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
                return self._made({})
            if function in _SETS and len(arguments) == 1 and type(arguments[0]) is list:
                self._close(arguments[0])  # the tuple may be called with again, for a set inside of itself
                return self._push(arguments[0])  # the same list: a copy of one that is used often would add up
        return self._made(Call(function, arguments), (arguments,))

    def _new_object(self, extra: int) -> None:
        for _ in range(extra):
            self._pop()  # the arguments tell nothing about tensors
        self._made(Instance(self._pop()))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if type(target) is Instance:
            if target.built:
                raise PickleRefused(f"{described(target)} is given a state twice")
            self._holds(target, (state,))
            target.built, target.state = True, state
        elif type(target) not in (Call, dict, list):  # of those the state is dropped
            raise PickleRefused(f"a state for {described(target)}")

    def _persistent_id(self) -> None:
        if not self._persistent:
            raise PickleRefused("a persistent id outside a storage's file")
        self._stack.append(Persistent(self._pop()))


Action = Callable[[Machine], object]
# Opcodes that older protocols, other picklers or attackers write are not here, among them INST, OBJ, EXT1 to EXT4, DUP
# and the textual ones: C pickle of Python 3.8 and later writes none of them for protocols 2 to 5.
_ACTIONS: Final[dict[bytes, "Action"]] = {
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
    b"C": lambda m: m._bytes(m._uint(1)),
    b"B": lambda m: m._bytes(m._uint(4)),
    b"\x8e": lambda m: m._bytes(m._uint(8)),
    b"\x96": lambda m: m._bytes(m._uint(8)),
    b")": lambda m: m._push(()),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"t": lambda m: m._made(parts := tuple(m._pop_to_mark()), parts),
    b"]": lambda m: m._made([]),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._pop_to_mark()),
    b"\x8f": lambda m: m._made([]),
    b"\x90": lambda m: m._append(m._pop_to_mark()),
    b"\x91": lambda m: m._made(parts := m._pop_to_mark(), parts),
    b"}": lambda m: m._made({}),
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
Machine.table = [_ACTIONS.get(bytes([opcode])) for opcode in range(256)]
