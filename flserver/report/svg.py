"""A drawing of matplotlib's as part of a page: no style of its own, its colours the page's variables, its text text."""

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from markupsafe import Markup

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

COLOURS: Mapping[str, str] = {
    "#010101": "ink",
    "#020202": "muted",
    "#030303": "line",
    "#040404": "paper",
    "#0a0001": "one",
    "#0a0002": "two",
    "#0a0003": "three",
    "#0a0004": "four",
    "#0a0005": "five",
    "#0a0006": "six",
}
"""What a chart is drawn in, and the variable of the page that it stands for."""
INK, MUTED, LINE, PAPER, *SERIES = COLOURS

# What may be an attribute of an element. A style attribute would need a hole in the page's Content-Security-Policy.
_KEPT = {
    *("fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin"),
    *("fill-opacity", "stroke-opacity", "opacity", "text-anchor", "fill-rule"),
}
_SIZE = re.compile(r"([\d.]+)px")


def inlined(drawn: str, name: str, titles: Mapping[str, Sequence[str]]) -> Markup:
    """The drawing for a page in which the caption with the id ``name`` says what it shows.

    ``titles`` are what is said of the marks of a group while the pointer is on them, by the group's id, in order.
    """
    root = ElementTree.fromstring(drawn)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for group, lines in titles.items():
        _entitle(root, group, lines)
    used = _references(root)
    for element in root.iter():
        if element.tag != f"{{{SVG}}}text" and element.tag != f"{{{SVG}}}title":
            element.text = (element.text or "").strip()
        element.tail = (element.tail or "").strip()
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        _restyle(element)
        if (found := element.attrib.pop("id", None)) in used:
            element.set("id", f"{name}-{found}")
        if target := element.attrib.pop(f"{{{XLINK}}}href", None):
            element.set("href", f"#{name}-{target.removeprefix('#')}")
        for key, value in element.attrib.items():
            if value.startswith("url(#"):
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-labelledby": name}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree has escaped what is text


def _references(root: ElementTree.Element) -> set[str]:
    text = ElementTree.tostring(root, encoding="unicode")
    return set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))


def _entitle(root: ElementTree.Element, group: str, lines: Sequence[str]) -> None:
    place = next((element for element in root.iter() if element.get("id") == group), None)
    marks = [] if place is None else [e for e in place.iter() if e.tag in (f"{{{SVG}}}use", f"{{{SVG}}}path")]
    if place is not None and any(mark.tag.endswith("use") for mark in marks):
        marks = [mark for mark in marks if mark.tag.endswith("use")]
    if len(marks) == len(lines):
        for mark, line in zip(marks, lines, strict=True):
            title = ElementTree.SubElement(mark, f"{{{SVG}}}title")
            title.text = line


def _restyle(element: ElementTree.Element) -> None:
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("font", "font-size") and (size := _SIZE.search(value)):  # one word, or several, by matplotlib's age
            element.set("font-size", size[1])
        elif key in _KEPT:
            element.set(key, value)
    for key in ("fill", "stroke"):
        if (colour := COLOURS.get(element.get(key, ""))) is not None:
            element.set(key, f"var(--{colour})")
