"""Frozen dataclasses that are made quickly: several are for each message, and each is one of many threads' time.

``dataclass(frozen=True)`` sets field by field past its own ``__setattr__``, with a call for each.
Here all fields are the instance's dict, made in one go; all else of such a class is the dataclass's.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

Made = TypeVar("Made")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(*, kw_only: bool = False) -> Callable[[type[Made]], type[Made]]:
    """A decorator as ``dataclass(frozen=True)`` is one, for classes without slots and ``__post_init__``."""

    def make(cls: type[Made]) -> type[Made]:
        made = dataclass(frozen=True, kw_only=kw_only)(cls)
        made.__init__ = _init_of(made)  # type: ignore[method-assign]
        return made

    return make


def of_fields(cls: type[Made], values: dict[str, Any]) -> Made:
    """An instance of such a class, of all its fields by name: the dict is its own from here on."""
    made = object.__new__(cls)
    object.__setattr__(made, "__dict__", values)
    return made


def _init_of(cls: type[Any]) -> Callable[..., None]:
    """An ``__init__`` with the parameters that the dataclass has, and their defaults."""
    known: dict[str, Any] = {"_absent": MISSING, "_set": object.__setattr__}
    positional, keywords, sets = list[str](), list[str](), list[str]()
    for each in fields(cls):
        parameter, value = each.name, each.name
        if each.default is not MISSING:
            known[f"_default_{each.name}"] = each.default
            parameter = f"{each.name}=_default_{each.name}"
        elif each.default_factory is not MISSING:
            known[f"_make_{each.name}"] = each.default_factory
            parameter = f"{each.name}=_absent"
            value = f"_make_{each.name}() if {each.name} is _absent else {each.name}"
        (keywords if each.kw_only else positional).append(parameter)
        sets.append(f"{each.name!r}: {value}")
    parameters = ", ".join(["self", *positional, *(["*", *keywords] if keywords else [])])
    exec(f"def __init__({parameters}): _set(self, '__dict__', {{{', '.join(sets)}}})", known)
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init
