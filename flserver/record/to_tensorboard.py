"""A run for TensorBoard: one file of events, made of the record alone. Equal records give equal bytes."""

import io
import json
import os
from pathlib import Path
from typing import Any

from flserver.errors import NotInstalled, UsageError
from flserver.record.opened import Run
from flserver.record.series import facts_of, points, seconds, settings_of

VERSION = "brain.Event:2"  # of the format: the first event of every file says so


def to_tensorboard(run: Run, logs: Path) -> str:
    """Write the run into a folder of its own below ``logs``, with the rounds' own times; one that is there already is
    replaced once the new file is whole. Returns a line that says what was done.

    Raises UsageError where there is no tensorboard, or ``logs`` cannot be written.
    """
    content, count = _content(run)
    place = logs / run.run_id / f"events.out.tfevents.{int(seconds(run.row['started_at']))}.flserver"
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        if place.is_file() and place.read_bytes() == content:
            return f"{place} has all of it: {count} numbers"
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(place)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror}") from error
    return f"{place}: {count} numbers; tensorboard --logdir {logs} shows them"


def _content(run: Run) -> tuple[bytes, int]:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise NotInstalled("there is no tensorboard", "tensorboard") from error

    file, began, numbers = io.BytesIO(), seconds(run.row["started_at"]), points(run)
    writer = RecordWriter(file)

    def add(event: Any) -> None:
        writer.write(event.SerializeToString(deterministic=True))

    add(Event(wall_time=began, file_version=VERSION))
    for tag, told in (("run", facts_of(run)), ("settings", settings_of(run))):
        # Indented text is code in the plugin's Markdown: whatever is in it stays text.
        lines = json.dumps(told, indent=2, ensure_ascii=True).splitlines()
        text = TensorProto(dtype="DT_STRING", string_val=["\n".join(f"    {line}" for line in lines).encode()])
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        value = Summary.Value(tag=tag, metadata=metadata, tensor=text)
        add(Event(wall_time=began, step=0, summary=Summary(value=[value])))
    for point in numbers:
        value = Summary.Value(tag=point.name, simple_value=point.value)
        add(Event(wall_time=point.at, step=point.round, summary=Summary(value=[value])))
    writer.flush()
    return file.getvalue(), len(numbers)
