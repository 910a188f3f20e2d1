"""Nobody but a test steps in, and a step that nobody watches does nothing."""

import ast
from pathlib import Path

import flserver
from flserver import events, faults
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer

SOURCES = sorted(Path(flserver.__path__[0]).rglob("*.py"))
FAULTS = Path(faults.__file__)


def test_no_variable_setting_or_flag_leads_to_a_hook() -> None:
    imported = {
        name.name if isinstance(node, ast.Import) else f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(FAULTS.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"collections.abc.Callable", "typing.Literal"}, "it looks at nothing outside"
    of_faults = {
        node.attr
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "faults"
    }
    assert of_faults == {"reach"}, "the server comes to steps, and installs nothing"
    coming = {f"{path.parent.name}/{path.name}" for path in SOURCES if "import faults" in path.read_text("utf-8")}
    assert coming == {"store/sqlite_recording.py", "postgres/recording.py"}


def test_a_hook_sees_each_transaction_before_and_after_its_commit_until_it_is_taken_away(tmp_path: Path) -> None:
    path, seen = tmp_path / "runs.sqlite", []
    ensure_head(path)
    writer = Writer(path, run_id="r", process_id=1)
    writer.start(on_committed=lambda _: seen.append("told"), on_commit_seconds=lambda _: None, on_failure=seen.append)
    try:
        faults.install(seen.append)
        writer.emit(events.OperatorActed(kind="stop", detail={}))
        writer.flush()
        faults.install(None)
        writer.emit(events.OperatorActed(kind="stop", detail={}))
        writer.flush()
    finally:
        faults.install(None)
        writer.close()
    assert seen == ["commit", "committed", "told", "told"]
