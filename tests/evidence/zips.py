"""Bundles taken apart, changed, and put together again as well as somebody could who knows how they are made."""

import io
import zipfile
from collections.abc import Mapping

from flserver.evidence.verify import Bundle, canonical, check, parse
from flserver.evidence.zipped import MANIFEST, fill


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def bundled(files: Mapping[str, bytes], **about: object) -> bytes:
    """With a manifest that is right."""
    said = {name: value for name, value in parse(files[MANIFEST], MANIFEST).items() if name != "files"}
    rest = {name: data for name, data in files.items() if name != MANIFEST}
    out = io.BytesIO()
    fill(out, rest, {}, said | about)
    return out.getvalue()


def as_they_are(files: Mapping[str, bytes]) -> bytes:
    """In a zip of the right form, with the manifest as it was."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            zipped.writestr(entry, files[name])
    return out.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << at % 8
    return bytes(changed)


def wrong(data: bytes) -> str | None:
    """What is wrong with a bundle in itself, as ``verify.main`` catches it; None where nothing is."""
    try:
        check(Bundle(io.BytesIO(data)))
    except Exception as error:
        return str(error) or type(error).__name__
    return None


__all__ = ["as_they_are", "bundled", "canonical", "files_of", "flipped", "wrong"]
