"""JSON: registrations whose every part is not what it should be."""

import json
from collections.abc import Iterator

from tests.e2e.hostile.inputs import Input, framed

NO_ID = "is not a client id"
NO_SIZE = "data_size .* is not an integer from 1 to"
NO_JSON = "starts like JSON and is none"
NO_HEADER = "a message without a header"
STARTED = "The server has already started the training"

IDS: dict[str, object] = {
    "true": True,
    "false": False,
    "1.0": 1.0,
    "null": None,
    "an empty list": [],
    "a list of an id": ["a"],
    "an empty object": {},
    "an object": {"id": 1},
    "an empty text": "",
    "a space": " ",
    "a text with a space after it": "a ",
    "a NUL": "a\x00",
    "a line feed": "a\nb",
    "a terminal escape": "\x1b[2Ja",
    "a bell": "\x07",
    "a DEL": "\x7f",
    "a C1 control": "\x9b31m",
    "a right-to-left mark": "a\u202eb",
    "a zero-width space": "a\u200b",
    "a byte order mark": "\ufeffa",
    "a line separator": "a\u2028b",
    "a lone surrogate": "\ud800",
    "a lone surrogate in a text": "a\udc80b",
    "a noncharacter": "\uffff",
    "129 characters": "a" * 129,
    "3,000 characters": "a" * 3000,
    "2**63": 2**63,
    "2**1000": 2**1000,
}
SIZES: dict[str, object] = {
    "0": 0,
    "-1": -1,
    "2**29": 2**29,
    "2**63": 2**63,
    "2**1000": 2**1000,
    "1.5": 1.5,
    "-1.0": -1.0,
    "a text": "5",
    "true": True,
    "null": None,
    "a list": [5],
    "an object": {"n": 5},
}
BODIES: dict[str, tuple[str | bytes, str]] = {
    "NaN": ('{"header": "<METADATA>", "id": 1, "data_size": NaN}', NO_SIZE),
    "Infinity": ('{"header": "<METADATA>", "id": 1, "data_size": Infinity}', NO_SIZE),
    "NaN as an id": ('{"header": "<METADATA>", "id": NaN, "data_size": 5}', NO_ID),
    "NaN as a header": ('{"header": NaN, "id": 1, "data_size": 5}', NO_HEADER),
    "a size of 1e9": ('{"header": "<METADATA>", "id": 1, "data_size": 1e9}', NO_SIZE),
    "a size of 1e999": ('{"header": "<METADATA>", "id": 1, "data_size": 1e999}', NO_SIZE),
    "a size of 3,000 digits": ('{"header": "<METADATA>", "id": 1, "data_size": ' + "9" * 3000 + "}", NO_SIZE),
    "a size with a zero before it": ('{"header": "<METADATA>", "id": 1, "data_size": 05}', NO_JSON),
    "a size in hexadecimal": ('{"header": "<METADATA>", "id": 1, "data_size": 0x5}', NO_JSON),
    "a missing size": ('{"header": "<METADATA>", "id": 1}', NO_SIZE),
    "a missing id": ('{"header": "<METADATA>", "data_size": 5}', NO_ID),
    "a missing header": ('{"id": 1, "data_size": 5}', NO_HEADER),
    "an empty object": ("{}", NO_HEADER),
    "a header that is null": ('{"header": null, "id": 1, "data_size": 5}', NO_HEADER),
    "a header that is a list": ('{"header": ["<METADATA>"], "id": 1, "data_size": 5}', NO_HEADER),
    "a header without brackets": ('{"header": "METADATA", "id": 1, "data_size": 5}', "header 'METADATA' is not one"),
    "a header with a terminal escape": (r'{"header": "\u001b[2J\u0007", "id": 1}', r"header '.*' is not one"),
    "a header with a lone surrogate": (r'{"header": "\udfff", "id": 1}', "header '.*' is not one"),
    "a header of 3,000 characters": (json.dumps({"header": "<" * 3000}), "header '.*' is not one"),
    "a model": ('{"header": "<MODEL>", "id": 1, "model": {"fc1.weight": [[1.0]]}}', "header '<MODEL>' is not one"),
    "a success": ('{"header": "<SUCCESS>", "msg": "welcome"}', "header '<SUCCESS>' is not one"),
    "an error": ('{"header": "<ERROR>", "msg": "go away"}', "header '<ERROR>' is not one"),
    "the end of the run": ('{"header": "<FINISHED>"}', "header '<FINISHED>' is not one"),
    "an id twice": ('{"header": "<METADATA>", "id": 1, "id": [], "data_size": 5}', NO_ID),
    "a size twice": ('{"header": "<METADATA>", "id": 1, "data_size": 5, "data_size": 0}', NO_SIZE),
    "a header twice": ('{"header": "<METADATA>", "header": "<MODEL>", "id": 1, "data_size": 5}', "'<MODEL>' is not"),
    "a header once more as a pickle": (
        b'{"header": "<METADATA>", "id": 1, "data_size": 5}\x80\x04}X\x06\x00\x00\x00headerN', NO_JSON),
    "something after it": ('{"header": "<METADATA>", "id": 1, "data_size": 5}{}', NO_JSON),
    "a NUL after it": ('{"header": "<METADATA>", "id": 1, "data_size": 5}\x00', NO_JSON),
    "a brace alone": ("{", NO_JSON),
    "a comma too many": ('{"header": "<METADATA>", "id": 1, "data_size": 5,}', NO_JSON),
    "single quotes": ("{'header': '<METADATA>', 'id': 1, 'data_size': 5}", NO_JSON),
    "a comment": ('{/* */"header": "<METADATA>", "id": 1, "data_size": 5}', NO_JSON),
    "an unescaped line feed": ('{"header": "<METADATA>", "id": "a\nb", "data_size": 5}', NO_JSON),
    "half an escape": (r'{"header": "<METADATA>", "id": "\u12", "data_size": 5}', NO_JSON),
    "a list": ('[{"header": "<METADATA>", "id": 1, "data_size": 5}]', "starts with byte 0x5b"),
    "a text": ('"<METADATA>"', "starts with byte 0x22"),
    "a byte order mark before it": ('\ufeff{"header": "<METADATA>"}', "starts with byte 0xef"),
    "a space before it": (' {"header": "<METADATA>", "id": 1, "data_size": 5}', "starts with byte 0x20"),
    "UTF-16": ('{"header": "<METADATA>", "id": 1, "data_size": 5}'.encode("utf-16-le"), NO_JSON),
    "Latin-1": ('{"header": "<METADATA>", "id": "é", "data_size": 5}'.encode("latin-1"), NO_JSON),
    "bytes that are no UTF-8": (b'{"header": "<METADATA>", "id": "\xff\xfe", "data_size": 5}', NO_JSON),
    "an overlong slash": (b'{"header": "<METADATA>", "id": "\xc0\xaf", "data_size": 5}', NO_JSON),
    "an encoded surrogate": (b'{"header": "<METADATA>", "id": "\xed\xa0\x80", "data_size": 5}', NO_JSON),
    "4,000 lists in each other": ('{"header": ' + "[" * 4000, NO_JSON),
    "2,000 lists in each other, closed": ('{"header": ' + "[" * 2000 + "]" * 2000 + "}", NO_JSON + "|" + NO_HEADER),
    "600 objects in each other": ('{"a":' * 600 + "1" + "}" * 600, NO_JSON + "|" + NO_HEADER),
    "a float of 3,000 digits as an id": ('{"header": "<METADATA>", "id": 0.' + "1" * 3000 + ', "data_size": 5}', NO_ID),
    # Good registrations, as far as their form goes: they come too late.
    "info that is nested": (
        '{"header": "<METADATA>", "id": 1, "data_size": 5, "info": ' + "[" * 400 + "]" * 400 + "}", STARTED),
    "info with terminal escapes": (
        r'{"header": "<METADATA>", "id": 1, "data_size": 5, "info": {"\u001b[2J": "\u0000\ud800"}}', STARTED),
    "a size of 1.0": ('{"header": "<METADATA>", "id": 1, "data_size": 1.0}', STARTED),
    "a size of 1e3": ('{"header": "<METADATA>", "id": 1, "data_size": 1e3}', STARTED),
    "-Infinity in info": ('{"header": "<METADATA>", "id": 1, "data_size": 5, "info": {"x": -Infinity}}', STARTED),
    "NaN in a key of its own": ('{"header": "<METADATA>", "id": 1, "data_size": 5, "NaN": NaN}', STARTED),
    "an id in SQL": (
        json.dumps({"header": "<METADATA>", "id": "'; DROP TABLE events; --", "data_size": 5}), STARTED),
    "an id that is a path": (json.dumps({"header": "<METADATA>", "id": "../../etc/passwd", "data_size": 5}), STARTED),
    "an id in HTML": (json.dumps({"header": "<METADATA>", "id": "<script>alert(1)</script>", "data_size": 5}), STARTED),
    "an id of format marks": (
        json.dumps({"header": "<METADATA>", "id": "%s%n{0.__class__}[red]", "data_size": 5}), STARTED),
}  # fmt: skip


def _inputs() -> Iterator[Input]:
    good = {"header": "<METADATA>", "id": 1, "data_size": 5}
    for what, value in IDS.items():
        yield _input(f"an id that is {what}", json.dumps(good | {"id": value}), NO_ID)
    for what, value in SIZES.items():
        yield _input(f"a data_size that is {what}", json.dumps(good | {"data_size": value}), NO_SIZE)
    for what, (body, reason) in BODIES.items():
        yield _input(what, body, reason)


def _input(what: str, body: str | bytes, reason: str) -> Input:
    raw = body.encode() if isinstance(body, str) else body
    answer = "<ERROR>" if raw.startswith(b"{") else None  # a person reads what a trainer prints
    return Input(name=f"json: {what}", klass="json", wire=framed(raw), reason=reason, answer=answer)


INPUTS: tuple[Input, ...] = tuple(_inputs())
