"""What the pickle machine has built so far of one pickle, and what that weighs.

The stack and its marks, the memo, and how deep the containers are nested.
"""

from collections.abc import Iterable
from typing import Final

from flserver.errors import PickleRefused
from flserver.wire.inert import BackReference, Call, Instance, PickleLimits, Tick

# Bytes of memory, as CPython has them on 64 bits: of any value with its place, and what comes on top: of a dict with
# something in it, of each of its keys, of a text, of each of its bytes, and of a view of bytes.
VALUE, TABLE, KEY, TEXT, CHARACTER, VIEW = 76, 160, 40, 80, 4, 144
_MEMO, _LEVEL = 80, 120  # of an entry in these tables
_AT_ONCE: Final = 64 * 1024  # bytes with which the next tick is not waited for

_CONTAINERS: Final = frozenset((tuple, list, dict, Call, Instance))
_BACK_REFERENCE: Final = BackReference()


class Stack:
    """The values of the pickle that is being read; ``deepest`` is how many containers are inside each other. ``tick``
    is told what they weigh, before they are made where they are large."""

    def __init__(self, limits: PickleLimits, tick: Tick) -> None:
        self._limits = limits
        self._tick = tick
        self._owed = 0  # bytes that no tick was told of yet
        self._reset()

    def _reset(self) -> None:
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: dict[int, object] = {}
        # The ids of the lists and dicts that were fetched from the memo. They may be part of anything by now, so
        # nothing is stored into them any more: that is what keeps the tree free of cycles.
        self._fetched: set[int] = set()
        self._closed: list[object] = []  # kept, so that none of what is fetched has another one's id
        # How deep the containers that hold others are, by their ids; the rest are 1 deep.
        self._levels: dict[int, int] = {}
        self.deepest = 1

    @property
    def remembered(self) -> int:
        """Entries in the memo."""
        return len(self._memo)

    @property
    def frames(self) -> list[list[object]]:
        """After ``load`` has raised: the values that were still open, from the outermost mark inwards."""
        return [*self._outer, self._stack]

    # --- what it costs -----------------------------------------------------------------------------------------------

    def _weigh(self, size: int, *, now: bool = False) -> None:
        """Values of ``size`` bytes are about to be made."""
        self._owed += size
        if now or self._owed > _AT_ONCE:
            owed, self._owed = self._owed, 0
            self._tick(owed)

    def _made(self, container: object, parts: Iterable[object] = ()) -> None:
        """Push a new container, which holds ``parts``."""
        self._levels.pop(id(container), None)  # of one that had the id before
        self._holds(container, parts)
        self._stack.append(container)

    def _holds(self, container: object, parts: Iterable[object]) -> None:
        """``parts`` are in ``container`` now."""
        levels, deepest = self._levels, 0
        for part in parts:
            if type(part) in _CONTAINERS:
                level = levels.get(id(part), 1)
                if level > deepest:
                    deepest = level
        if deepest and deepest >= levels.get(id(container), 1):
            if deepest >= self._limits.nesting:
                raise PickleRefused("the pickle nests too deeply")
            levels[id(container)] = deepest + 1
            self.deepest = max(self.deepest, deepest + 1)
            self._owed += _LEVEL

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

    # --- marks and memo ----------------------------------------------------------------------------------------------

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
        if len(self._memo) >= self._limits.memo:
            raise PickleRefused("the pickle has too many memo entries")
        self._owed += _MEMO
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

    def _close(self, container: object) -> None:
        """Nothing is put into it from here on."""
        self._owed += _MEMO
        self._closed.append(container)
        self._fetched.add(id(container))

    def _refuse_fetched(self, target: object) -> None:
        if id(target) in self._fetched:
            raise PickleRefused("a container grows after something referred to it")
