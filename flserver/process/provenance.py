"""What a server process is made of, as far as a model's bits may depend on it: sources, libraries and the CPU."""

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from flserver.errors import UsageError
from flserver.sources import digest_of_package
from flserver.store.reader import Reader
from flserver.text import printable

LIBRARIES = ("flserver", "torch", "torchvision", "numpy", "numba", "llvmlite", "safetensors", "blake3")

BEFORE = """
    SELECT code, libraries, cpu FROM v1_processes
    WHERE run_id = :run_id AND libraries IS NOT NULL ORDER BY process_id DESC LIMIT 1"""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something is not what it was: ``what`` is ``code.model``, ``libraries.torch``, ``cpu``, …; None: it was, or is,
    not there."""

    what: str
    before: str | None
    now: str | None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """``code`` are digests (``sha256:hex``) of sources: the operator's own by the setting that names them, and all of
    this package's as ``flserver``. ``libraries`` are versions by name, of those that are there; ``cpu`` is what the CPU
    calls itself."""

    code: Mapping[str, str]
    libraries: Mapping[str, str]
    cpu: str

    def changes(self, before: "Provenance") -> Iterator[Change]:
        """What is not as it was ``before``, in the order of the names."""
        was, now = before._flat(), self._flat()
        for what in sorted(was.keys() | now.keys()):
            if was.get(what) != now.get(what):
                yield Change(what=what, before=was.get(what), now=now.get(what))

    def _flat(self) -> dict[str, str]:
        code = {f"code.{name}": digest for name, digest in self.code.items()}
        return code | {f"libraries.{name}": number for name, number in self.libraries.items()} | {"cpu": self.cpu}


def provenance(own_code: Mapping[str, str]) -> Provenance:
    """This process's; ``own_code`` are the digests of the operator's own files. Imports none of the libraries."""
    return Provenance(code={**own_code, "flserver": digest_of_package()}, libraries=dict(_versions()), cpu=_cpu())


def provenance_before(reader: Reader, run_id: str) -> Provenance | None:
    """That of the last process on record of the run; None where there is none, or it is older than that."""
    with suppress(ValueError, TypeError, UsageError):  # where it was tampered with, the chain says so
        _, rows = reader.query(BEFORE, {"run_id": run_id})
        for code, libraries, cpu in rows:
            return Provenance(code=json.loads(code), libraries=json.loads(libraries), cpu=cpu)
    return None


def _versions() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def _cpu() -> str:
    machine = platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return printable(f"{machine} {value.strip()}")
    return machine
