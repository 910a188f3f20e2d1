"""``package.module:name`` becomes an object: the only door by which operators' own code comes in."""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Collection
from operator import attrgetter
from typing import Any

from flserver.errors import UsageError, one_line
from flserver.text import did_you_mean

_LOOKED_FOR = "(looked for on PYTHONPATH and in this folder)"


def import_attribute(spec: str, what: str) -> Any:
    """The object that ``package.module:name`` means, from ``sys.path`` or else the current directory.

    Raises UsageError, naming ``what`` asked for it.
    """
    module_name, name = _parts(spec, what)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        where = f" {_LOOKED_FOR}" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"{what} {spec!r}: cannot import {module_name}: {one_line(error)}{where}") from error
    try:
        return attrgetter(name)(module)
    except AttributeError as error:
        meant = did_you_mean(name, (other for other in vars(module) if not other.startswith("_")))
        raise UsageError(f"{what} {spec!r}: {module_name} has no {name}{meant}") from error


def file_of(spec: str) -> tuple[str | None, str | None]:
    """The file of the module in which ``package.module:name`` stands, imported or not, and its digest (``sha256:hex``);
    None and None where there is no such file, and for names such as torchvision's, which no operator has written."""
    module_name, colon, _ = spec.partition(":")
    if not colon or module_name == "torchvision":
        return None, None
    module = sys.modules.get(module_name)
    path = _origin(module_name) if module is None else getattr(module, "__file__", None)
    if not path:
        return None, None
    try:
        with open(path, "rb") as file:
            return path, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return None, None


def _origin(module_name: str) -> str | None:
    """The file that an import of ``module_name`` would run, importing nothing, not even the packages it is in."""
    places, full, origin = [*sys.path, os.getcwd()], "", None
    for part in module_name.split("."):
        full = f"{full}.{part}" if full else part
        found = importlib.machinery.PathFinder.find_spec(full, places)
        if found is None and "." not in full:  # an editable installation has a finder of its own
            found = importlib.util.find_spec(full)
        if found is None:
            return None
        origin, places = found.origin if found.has_location else None, list(found.submodule_search_locations or ())
    return origin


def check_importable(spec: str, what: str, known: Collection[str] = ()) -> None:
    """Look whether :func:`import_attribute` can find the module of ``spec``, importing nothing.

    Raises UsageError, naming ``what`` asked for it, with what was perhaps meant: a module in this folder, or ``known``.
    """
    module_name, _ = _parts(spec, what)
    top, here = module_name.partition(".")[0], os.getcwd()
    if top in sys.modules or importlib.util.find_spec(top) or importlib.machinery.PathFinder.find_spec(top, [here]):
        return
    meant = did_you_mean(top, {*known, *(module.name for module in pkgutil.iter_modules([here]))} - {top})
    raise UsageError(f"{what} {spec!r}: cannot import {module_name}: there is no module {top} {_LOOKED_FOR}{meant}")


def check_name(spec: str, what: str, known: Collection[str]) -> None:
    """Look whether ``spec`` is one of ``known``, or else what :func:`check_importable` finds. Raises UsageError."""
    if spec in known:
        return
    if ":" not in spec:
        neither = f"is neither {' nor '.join(known)} nor of the form package.module:Class"
        raise UsageError(f"{what} {spec!r} {neither}{did_you_mean(spec, known)}")
    check_importable(spec, what)


def _parts(spec: str, what: str) -> tuple[str, str]:
    """The module's name and the object's. Raises UsageError where ``spec`` is not of the form."""
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        torchvision = " or torchvision:name" if what == "--model" else ""
        package, dot, last = spec.rpartition(".")
        meant = f"; did you mean '{package}:{last}'?" if dot and ":" not in spec else ""
        raise UsageError(f"{what} {spec!r} is not of the form package.module:name{torchvision}{meant}")
    return module_name, name
