"""What a server process is made of, and what of that has changed."""

import logging
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

import flserver
from flserver.events import OperatorActed
from flserver.process.first_entries import record_changes
from flserver.process.provenance import Change, Provenance, provenance, provenance_before
from flserver.process.which_run import Plan
from flserver.settings import server_settings
from flserver.sources import digest_of_package
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests import facts
from tests.process.runs import found
from tests.recorder import RecordingRecorder
from tests.store import story

OLD = Provenance(code={"flserver": "sha256:aa", "model": "sha256:bb"}, libraries={"torch": "2.7"}, cpu="x86_64 One")


def test_a_process_names_the_libraries_that_are_there_and_its_cpu() -> None:
    made = provenance({"model": "sha256:bb"})
    assert made.code == {"model": "sha256:bb", "flserver": digest_of_package()}
    assert {"flserver", "torch", "numpy", "numba", "safetensors", "blake3"} <= set(made.libraries)
    assert made.libraries["torch"] == version("torch")
    assert made.cpu
    assert [*made.changes(made)] == []


def test_the_digest_of_the_package_is_what_ordinary_tools_say() -> None:
    command = (
        "find . -xtype f -name '[!.]*.py' -not -path './migrations/*' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    )
    done = subprocess.run(command, shell=True, cwd=Path(flserver.__file__).parent, capture_output=True, text=True)
    assert digest_of_package() == f"sha256:{done.stdout.split()[0]}"


def test_what_an_editor_leaves_beside_the_sources_changes_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli").mkdir()
    sources = {"__init__.py": "", "cli/ask.py": "1"}
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(flserver, "__file__", str(tmp_path / "__init__.py"))
    before = digest_of_package()
    (tmp_path / "cli" / ".#ask.py").symlink_to("somebody@somewhere.4711:1700000000")
    (tmp_path / "cli" / "more.py").symlink_to("nowhere")
    (tmp_path / "cli" / ".hidden.py").write_text("2")
    (tmp_path / "cli" / "folder.py").mkdir()
    assert digest_of_package() == before
    (tmp_path / "cli" / "ask.py").write_text("3")
    assert digest_of_package() != before


def test_what_has_changed_has_its_old_and_its_new_value() -> None:
    now = Provenance(code={"flserver": "sha256:cc"}, libraries={"torch": "2.8", "numba": "0.6"}, cpu="x86_64 One")
    assert [*now.changes(OLD)] == [
        Change(what="code.flserver", before="sha256:aa", now="sha256:cc"),
        Change(what="code.model", before="sha256:bb", now=None),
        Change(what="libraries.numba", before=None, now="0.6"),
        Change(what="libraries.torch", before="2.7", now="2.8"),
    ]


def test_what_the_last_process_had_is_read_back_and_an_older_record_has_nothing(tmp_path: Path) -> None:
    db, old = tmp_path / "runs.sqlite", [facts.run_started(), facts.server_started()]
    ensure_head(db)
    story.write(db, old)
    assert provenance_before(Reader(db), facts.RUN) is None
    ((code, cpu),) = Reader(db).query("SELECT code, cpu FROM v1_processes")[1]
    assert (code, cpu) == (None, None)
    story.write(db, [facts.server_started(process_id=2, **vars(OLD)), facts.server_started(process_id=3)], process_id=2)
    assert provenance_before(Reader(db), facts.RUN) == OLD
    assert provenance_before(Reader(db), "another") is None
    newer = replace(OLD, cpu="aarch64")
    story.write(db, [facts.server_started(process_id=4, **vars(newer))], process_id=4)
    assert provenance_before(Reader(db), facts.RUN) == newer


@pytest.mark.parametrize(
    ("what", "given", "on_record", "said"),
    [
        ("libraries.torch", {}, True, True),
        ("cpu", {}, True, True),
        ("code.model", {}, True, False),  # of the operator's files it is said when they are read
        ("code.evaluate", {"evaluate": "other:evaluate"}, False, False),  # the new setting is on record
    ],
)
def test_a_change_is_an_operator_event_and_a_line(
    caplog: pytest.LogCaptureFixture, what: str, given: dict[str, str], on_record: bool, said: bool
) -> None:
    recorder, settings = RecordingRecorder(), server_settings({"actor": "ann"})
    run = found("interrupted")
    plan = Plan(run_id="r1", name="night", ref="night", settings=settings, resumed=run, overrides=given)
    with caplog.at_level(logging.WARNING):
        record_changes(recorder, plan, [Change(what=what, before="old", now="new")])
    acts = [event for event in recorder.events if isinstance(event, OperatorActed)]
    assert [(act.kind, act.actor, act.detail) for act in acts] == (
        [("override", "ann", {"setting": what, "before": "old", "now": "new"})] if on_record else []
    )
    assert (f"{what} new (it was old)" in caplog.text) == said
