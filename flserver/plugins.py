"""``package.module:name`` becomes an object: the only door by which operators' own code comes in."""

import importlib
import os
import sys
from operator import attrgetter
from typing import Any

from flserver.errors import UsageError, one_line


def import_attribute(spec: str, what: str) -> Any:
    """The object that ``package.module:name`` means, from ``sys.path`` or else the current directory.

    Raises UsageError, naming ``what`` asked for it.
    """
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        torchvision = " or torchvision:name" if what == "--model" else ""
        raise UsageError(f"{what} {spec!r} is not of the form package.module:name{torchvision}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        where = " (looked for on PYTHONPATH and in this folder)" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"{what} {spec!r}: cannot import {module_name}: {one_line(error)}{where}") from error
    try:
        return attrgetter(name)(module)
    except AttributeError as error:
        raise UsageError(f"{what} {spec!r}: {module_name} has no {name}") from error
