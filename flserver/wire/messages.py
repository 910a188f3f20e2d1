"""The six messages of the wire, as frozen values, and the bodies they are written in.

    message          from     on                            encoding
    Metadata         client   a new connection, first       JSON
    Success, Error   server   the same                      JSON
    GlobalModel      server   the same, every round         pickle
    Update           client   another, new connection       pickle
    Finished         server   the first, at the end         pickle

``GlobalModel`` and ``Update`` share a header on the wire; the direction tells them apart.

A value from a pickle may hold one tuple many times over, and a value of either encoding may be nested a thousand deep:
to print, compare or hash one costs 2**n steps, or the stack. So a peer's value is told by its type first, and only
text and numbers are looked into.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Final, Literal, get_args

from flserver.errors import MessageRefused, Refused
from flserver.wire.framing import JSON_FIRST_BYTE, OPENING_BYTES
from flserver.wire.ids import MAX_ID_LENGTH, why_no_id
from flserver.wire.inert import Tick, quoted, unmetered
from flserver.wire.modules import Module, read_module
from flserver.wire.pickles import PickleLimits, read_message, read_opening

MAX_DATA_SIZE = 2**29 - 1  # FedAvg's float64 products of float32 weights are exact below 2^29
MAX_METRICS = 64
MAX_METRIC_NAMES = 1_000  # looked at, usable or not
MAX_INFO_DEPTH = 8

MeasuredOn = Literal["received", "trained"]
"""On which model a client measured something: on the one it received, or on what it trained from that."""
MEASURED_ON: Final[tuple[MeasuredOn, ...]] = get_args(MeasuredOn)

_SHOWN_LENGTH: Final = 58  # characters of text from outside in a reason, its quotes not counted
_SHOWN_BITS: Final = 128  # up to which an integer is written out: Python refuses to print a long one
_KINDS: Final[dict[type, str]] = {tuple: "a tuple", list: "a list", dict: "a dict", memoryview: "bytes"}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """A client asks to take part: its id as text, its number of training samples, what it says of itself.

    ``sent`` are the fields as they came, but for header and info, which is part of no comparison: ``{"id": "3",
    "data_size": 10.0}`` means what ``{"id": 3, "data_size": 10}`` means.
    """

    header: ClassVar[str] = "<METADATA>"
    client_id: str
    data_size: int
    info: Mapping[str, Any] = field(default_factory=dict)
    sent: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, kw_only=True)
class Success:
    """The client takes part; ``run`` is the id of the run that it takes part in, None where the server does not say."""

    header: ClassVar[str] = "<SUCCESS>"
    msg: str
    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class Error:
    """The client does not take part; ``msg`` says why."""

    header: ClassVar[str] = "<ERROR>"
    msg: str


@dataclass(frozen=True, kw_only=True)
class GlobalModel:
    """The model of the last committed round, to be trained."""

    header: ClassVar[str] = "<MODEL>"
    model: Module


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number that a client reported: NaN and the infinities are some."""

    name: str
    measured_on: MeasuredOn
    value: float


@dataclass(frozen=True, kw_only=True)
class Update:
    """A client's trained model, and what it measured."""

    header: ClassVar[str] = "<MODEL>"
    client_id: str
    model: Module
    metrics: tuple[Measurement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is over: ``complete``, or stopped in its middle, and the server means to come back with it."""

    header: ClassVar[str] = "<FINISHED>"
    complete: bool = True


Message = Metadata | Success | Error | GlobalModel | Update | Finished

# In pickle protocol 2, which every Python 3 reads: {"header": "<FINISHED>"}, and with "complete": False in it.
FINISHED_BODY = b"\x80\x02}X\x06\x00\x00\x00headerX\x0a\x00\x00\x00<FINISHED>s."
STOPPED_BODY = FINISHED_BODY[:-1] + b"X\x08\x00\x00\x00complete\x89s."

UNDERSTANDS_GOODBYE = "goodbye"
"""A client that says true by this name in its ``info`` knows ``complete``."""


def decode(body: memoryview, *, from_client: bool, pickles: PickleLimits, tick: Tick = unmetered) -> Message:
    """The message in a whole body. ``tick`` is called again and again while a pickle is read.

    Raises MessageRefused, or PickleRefused where the pickle machine does, with what the message said of itself.
    """
    is_json = len(body) > 0 and body[0] == JSON_FIRST_BYTE
    fields: Mapping[str, object] | None = None
    try:
        fields = _read_json(body) if is_json else read_message(body, pickles, tick)
        return _message(fields, is_json, from_client=from_client, pickles=pickles, tick=tick)
    except Refused as error:
        said = fields if fields is not None else {} if is_json else read_opening(body[:OPENING_BYTES])
        error.header, error.client_id = said_of_itself(said)
        raise


def decode_fields(fields: Mapping[str, object], *, pickles: PickleLimits, tick: Tick = unmetered) -> Message:
    """The message of a client whose pickle holds these ``fields``. Raises MessageRefused or PickleRefused."""
    return _message(fields, False, from_client=True, pickles=pickles, tick=tick)


def said_of_itself(fields: Mapping[str, object]) -> tuple[str | None, str | None]:
    """The header, fit to be printed, and the client id among a message's fields; None for what is none."""
    header, client_id = fields.get("header"), None
    with suppress(MessageRefused):
        client_id = read_client_id(fields.get("id"))
    return quoted(header, _SHOWN_LENGTH) if isinstance(header, str) else None, client_id


def _message(
    fields: Mapping[str, object], is_json: bool, *, from_client: bool, pickles: PickleLimits, tick: Tick
) -> Message:
    header = fields.get("header")
    if not isinstance(header, str):
        raise MessageRefused("a message without a header")
    match header, is_json, from_client:
        case "<METADATA>", True, True:
            return Metadata(
                client_id=read_client_id(fields.get("id")),
                data_size=_data_size(fields.get("data_size")),
                info=_info(fields.get("info")),
                sent=_sent(fields),
            )
        case "<MODEL>", False, True:
            return Update(
                client_id=read_client_id(fields.get("id")),
                model=read_module(fields.get("model"), pickles, tick),
                metrics=_measurements(fields.get("metrics")),
            )
        case "<SUCCESS>", True, False:
            run = fields.get("run")
            return Success(msg=_msg(fields.get("msg", "")), run=run if isinstance(run, str) else None)
        case "<ERROR>", True, False:
            return Error(msg=_msg(fields.get("msg", "")))
        case "<MODEL>", False, False:
            return GlobalModel(model=read_module(fields.get("model"), pickles, tick))
        case "<FINISHED>", False, False:
            return Finished(complete=fields.get("complete") is not False)
    raise MessageRefused(f"header {shown(header)} is not one that may come here")


def encode_json(message: Success | Error) -> bytes:
    """The JSON body of a server's answer to a registration."""
    fields = {"header": message.header, "msg": message.msg}
    if isinstance(message, Success) and message.run is not None:
        fields["run"] = message.run
    return json.dumps(fields).encode()


def encode_metadata(client_id: str, data_size: int, info: Mapping[str, Any]) -> bytes:
    """The JSON body of a registration."""
    fields = {"header": Metadata.header, "id": wire_id(client_id), "data_size": data_size, "info": dict(info)}
    return json.dumps(fields).encode()


def wire_id(client_id: str) -> int | str:
    """An id as it travels: a whole number goes as an integer, as the trainers in the field send theirs."""
    is_number = client_id.isascii() and client_id.isdigit() and len(client_id) < 19  # which an int64 always holds
    return int(client_id) if is_number and str(int(client_id)) == client_id else client_id


def shown(value: object) -> str:
    """A value from outside, fit for a one-line reason. Text is cut, escaped and quoted; containers are not entered."""
    if type(value) is str:
        return f"'{quoted(value, _SHOWN_LENGTH)}'"
    if type(value) is int and value.bit_length() > _SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    if value is None or type(value) in (bool, int, float):
        return repr(value)
    return _KINDS.get(type(value), "an object")


def read_client_id(value: object) -> str:
    """An id as text. Integers, and short texts that cannot be taken for another, are ids; 3 and "3" are one client.

    Raises MessageRefused for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return str(value)
    why = why_no_id(value if isinstance(value, str) else "")
    if isinstance(value, str) and why is None:
        return value
    raise MessageRefused(f"{shown(value)} is not a client id: {why}")


def _msg(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def _data_size(value: object) -> int:
    """A number of samples. 10.0 is 10: what counts with floats writes it so."""
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_DATA_SIZE:
        return number
    kind = ", a text," if isinstance(value, str) else ""
    raise MessageRefused(f"data_size {shown(value)}{kind} is not an integer from 1 to {MAX_DATA_SIZE}")


def _info(value: object) -> Mapping[str, Any]:
    """What a client says of itself, if it is an object that is not nested for nesting's sake: it is put on record."""
    return _mapping(value) if _depth_within(value, MAX_INFO_DEPTH) else {}


def _sent(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """A registration's fields for the record: those that have a place of their own are left out, and nested ones."""
    kept = {name: value for name, value in fields.items() if name not in ("header", "info")}
    return {name: value for name, value in kept.items() if _depth_within(value, MAX_INFO_DEPTH)}


def _depth_within(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_depth_within(item, levels - 1) for item in inner)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _measurements(value: object) -> tuple[Measurement, ...]:
    """What can be used of a client's ``metrics``: ``{name: {"received" or "trained": a number}}``.

    The rest is ignored: metrics are an extension, and no update is lost over them. Nothing but the two numbers of a
    name is looked at.
    """
    found: list[Measurement] = []
    for name, numbers in islice(_mapping(value).items(), MAX_METRIC_NAMES):
        if not (isinstance(numbers, dict) and 0 < len(name) <= MAX_ID_LENGTH and name.isprintable()):
            continue
        for measured_on in MEASURED_ON:
            number = numbers.get(measured_on)
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            with suppress(OverflowError):  # an integer beyond float64
                found.append(Measurement(name=name, measured_on=measured_on, value=float(number)))
    return tuple(found[:MAX_METRICS])


def _read_json(body: memoryview) -> dict[str, Any]:
    """An object. NaN and Infinity are read, which are no JSON: Python's json writes them, and who asked for the number
    looks at it."""
    try:
        fields = json.loads(bytes(body).decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise MessageRefused(f"a body that starts like JSON and is none: {shown(str(error))}") from error
    if not isinstance(fields, dict):
        raise MessageRefused("a JSON body that is not an object")
    return fields
