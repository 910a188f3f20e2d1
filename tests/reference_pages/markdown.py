"""What the pages have in common: tables, texts for the terminal, and the line that says where a page comes from."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count

WRITTEN = "<!-- Written by ops/write-reference. Change what it is written from, and run it again. -->"


class Undescribed(Exception):
    """Something has no meaning in ``meanings.py``, or something has one that does not exist."""


def page(title: str, *parts: str) -> str:
    """A whole page: paragraphs, tables and sections, with an empty line between."""
    return "\n\n".join((WRITTEN, f"# {title}", *(part.strip("\n") for part in parts))) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A bar in a cell would end it, in code too."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    return f"`{text}`"


def prose(text: str) -> str:
    """A text that was written for the terminal: options as code, and nothing that would be taken for a tag. What is
    code already stays as it is."""

    def marked(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith("`") else "&lt;" if found[0] == "<" else code(found[0])

    return re.sub(r"`[^`]*`|(?<!\S)--[a-z][a-z-]*|<", marked, text)


def check_described(what: str, there: Iterable[str], described: Iterable[str]) -> None:
    """Raises Undescribed unless both name the same things."""
    names, meanings = set(there), set(described)
    if names - meanings:
        raise Undescribed(f"{what}: no meaning of {', '.join(sorted(names - meanings))}")
    if meanings - names:
        raise Undescribed(f"{what}: a meaning of {', '.join(sorted(meanings - names))}, which is not there")


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings and ``<a id="…">`` give, as the hosting site makes them."""
    found: set[str] = set()
    for line in _outside_of_code(text):
        if line.startswith("#"):
            plain = line.lstrip("#").strip().replace("`", "").lower()
            slug = "".join(c for c in plain.replace(" ", "-") if c.isalnum() or c in "-_")
            found.add(next(name for n in count() if (name := f"{slug}-{n}" if n else slug) not in found))
    return found


def links(text: str) -> list[str]:
    """Where a page's links and pictures point."""
    prose = "\n".join(_outside_of_code(text))
    prose = re.sub(r"`[^`\n]+`", "", prose)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r' (?:src|srcset|href)="([^"]+)"', prose)


def _outside_of_code(text: str) -> Iterable[str]:
    """The lines that are in no block of code."""
    inside = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield line


def closed(sets: Mapping[str, Sequence[str]]) -> str:
    """Labels with the values that each can have; those whose values are open have none."""
    told = []
    for label, values in sets.items():
        told.append(f"{code(label)}: {', '.join(map(code, values))}" if values else code(label))
    return "; ".join(told)
