"""A run's rows out of the record: each view a file of CSV, JSON lines or Parquet, with what stands in them beside them.

Rows go from the database to the file a page at a time, all from one state of the record.
"""

import csv
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal, get_args

from flserver import __version__
from flserver.clock import utc_now
from flserver.errors import NotInstalled, UsageError
from flserver.files import create
from flserver.record.cells import inert, plain
from flserver.store.reader import Reader, Row
from flserver.store.reading import Asked
from flserver.text import json_text

Form = Literal["csv", "jsonl", "parquet"]
FORMS: tuple[Form, ...] = get_args(Form)
MANIFEST = "manifest.json"

Kind = Literal["integer", "real", "text", "blob", "time"]

ORDER = {
    "v1_runs": "run_id",
    "v1_processes": "process_id",
    "v1_nodes": "started_at, node",
    "v1_operator_events": "at, kind",
    "v1_clients": "registered_at, client_id, registration",
    "v1_connections": "connection_id",
    "v1_summaries": "minute, prefix, reason, purpose, header, outcome",
    "v1_messages": "message_id",
    "v1_updates": "update_id",
    "v1_rounds": "round, attempt",
    "v1_client_rounds": "round, attempt, client_id",
    "v1_round_metrics": "round, source, name",
    "v1_client_metrics": "round, client_id, measured_on, name",
    "v1_heads": "size, event_seq",
    "v1_events": "seq",
}
"""In which order each view's rows stand: the same record gives the same bytes."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A view's column and what stands in it: numbers, text, bytes, or times in UTC."""

    name: str
    kind: Kind


def views(reader: Reader) -> list[str]:
    """The names of the views that the database has."""
    with reader.asking() as asked:
        return asked.views()


def write_all(reader: Reader, run: Row, form: Form, out: Path, *, raw: bool = False) -> dict[str, Any]:
    """Write every view's rows of ``run`` into the folder ``out``, which is made, or is there and empty, and
    ``manifest.json``, whose content is given back. Raises UsageError; then nothing is left of it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: it is there already, and is no empty folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # for this user alone
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    try:
        manifest = _fill(reader, run, form, made, raw)
        made.rename(out)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def write_view(reader: Reader, run: Row, view: str, form: Form, file: IO[bytes], *, raw: bool = False) -> int:
    """Write one view's rows of ``run`` to ``file``; how many there are. Raises UsageError."""
    with reader.asking() as asked:
        columns = _columns(asked, view, run["run_id"])
        return _written(columns, _pages(asked, view, run["run_id"]), form, file, raw)


def _fill(reader: Reader, run: Row, form: Form, folder: Path, raw: bool) -> dict[str, Any]:
    told: dict[str, Any] = {}
    with reader.asking() as asked:
        _, ((events, head),) = asked.rows(_HEAD)
        for view in asked.views():
            columns = _columns(asked, view, run["run_id"])
            path = folder / f"{view}.{form}"
            with open(create(path), "w+b") as file:
                rows = _written(columns, _pages(asked, view, run["run_id"]), form, file, raw)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            kinds = [{"name": column.name, "type": column.kind} for column in columns]
            told[view] = {"file": path.name, "rows": rows, "sha256": digest, "columns": kinds}
    manifest = {
        "format": form,
        "made_at": utc_now(),
        "flserver": __version__,
        "run": {key: run[key] for key in ("run_id", "name", "status")},
        "record": {"events": events, "head": head},
        "views": told,
    }
    with open(create(folder / MANIFEST), "w", encoding="utf-8") as text:
        text.write(json_text(manifest, indent=2) + "\n")
    return manifest


_HEAD = "SELECT COALESCE(MAX(seq), 0), (SELECT digest FROM v1_events ORDER BY seq DESC LIMIT 1) FROM v1_events"


_COUNTS = {"v1_nodes": {"connections", "updates", "updates_lost", "bytes_in", "bytes_out"}}
"""Expressions that are numbers, of views that a run without nodes has no rows in: there nothing else says so."""


def _columns(asked: Asked, view: str, run_id: str) -> list[Column]:
    """The view's columns. What an expression is made of has no declared type: then what stands in it says it."""
    found = asked.columns(view)
    if not found:
        raise UsageError(f"there is no view {view}")
    return [Column(name=name, kind=_kind(asked, view, run_id, name, declared)) for name, declared in found]


def _kind(asked: Asked, view: str, run_id: str, name: str, declared: str) -> Kind:
    if name == "at" or name.endswith("_at") or name == "minute":
        return "time"
    if declared in ("INTEGER", "REAL", "TEXT", "BLOB"):
        return {"INTEGER": "integer", "REAL": "real", "TEXT": "text", "BLOB": "blob"}[declared]  # type: ignore[return-value]
    query = f'SELECT DISTINCT typeof("{name}") FROM {view} WHERE run_id = :run_id'
    kinds = {kind for (kind,) in asked.rows(query, {"run_id": run_id})[1]} - {"null"}
    if not kinds and name in _COUNTS.get(view, ()):
        return "integer"
    if kinds and kinds <= {"integer", "real"}:
        return "real" if "real" in kinds else "integer"
    return "blob" if kinds == {"blob"} else "text"


def _pages(asked: Asked, view: str, run_id: str) -> Iterator[list[tuple[Any, ...]]]:
    order = f" ORDER BY {ORDER[view]}" if view in ORDER else ""
    return asked.pages(f"SELECT * FROM {view} WHERE run_id = :run_id{order}", {"run_id": run_id})[1]


def _written(
    columns: Sequence[Column], pages: Iterator[list[tuple[Any, ...]]], form: Form, file: IO[bytes], raw: bool
) -> int:
    """Write the rows; how many there are."""
    if form == "parquet":
        return _parquet(columns, pages, file)
    count, names = 0, [column.name for column in columns]
    if form == "csv":
        file.write(_csv([names]))
    for page in pages:
        count += len(page)
        if form == "csv":
            file.write(_csv([map(plain if raw else inert, row) for row in page]))
        else:
            rows = (dict(zip(names, row, strict=True)) for row in page)
            file.write("".join(json_text(row) + "\n" for row in rows).encode())
    return count


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """The writer quotes what its own lines end with: a carriage return alone begins a row for some."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _parquet(columns: Sequence[Column], pages: Iterator[list[tuple[Any, ...]]], file: IO[bytes]) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NotInstalled("--format parquet needs pyarrow", "parquet") from error
    types = {
        "integer": pa.int64(),
        "real": pa.float64(),
        "text": pa.string(),
        "blob": pa.binary(),
        "time": pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(column.name, types[column.kind]) for column in columns])
    count = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for page in pages:
            count += len(page)
            values = [[_typed(row[place], column.kind) for row in page] for place, column in enumerate(columns)]
            try:
                arrays = [pa.array(each, field.type) for each, field in zip(values, schema, strict=True)]
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise UsageError(f"what stands in the record is not what its columns are for: {error}") from error
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    return count


def _typed(value: Any, kind: Kind) -> Any:
    """``value`` as Parquet takes it."""
    if value is None or kind not in ("time", "real", "text"):
        return value
    if kind == "real":
        return float(value) if isinstance(value, int) else value
    if kind == "text":
        return str(value) if isinstance(value, int | float) else value
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{value!r} is no time, in a column of times: flserver verify says more") from error
