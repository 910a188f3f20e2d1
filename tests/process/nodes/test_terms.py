"""What a node is told of its server: its settings, the operator's code, and who may take part."""

import sys
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.identity.roster import Member
from flserver.plugins import import_attribute
from flserver.process import own_code
from flserver.process.nodes.terms import Terms, Told
from flserver.settings import server_settings
from flserver.settings.places import Address

MODEL = "from torch import nn\n\ndef make():\n    return nn.Linear(2, 2)\n"


def test_a_node_of_a_server_that_stood_by_can_be_one() -> None:
    values = {"db": Address("postgresql://db.example/runs"), "checkpoint_dir": "/models", "standby": True, "ingest": 2}
    told = Told.read(Terms(server_settings(values), "run").told("node-1"))
    assert (told.run_id, told.name, told.roster) == ("run", "node-1", None)
    assert not told.settings.store.standby
    assert told.settings.ingest.ingest == 2


def test_a_node_has_the_roster_that_is_in_force_and_not_the_file() -> None:
    members = [Member(client_id="1", label="Lund"), Member(client_id="2", fingerprint="sha256:" + "0" * 64)]
    terms = Terms(server_settings({"db": "runs.sqlite", "ingest": 2}), "run", {}, lambda: members)
    roster = Told.read(terms.told("node-1")).roster
    assert roster is not None
    assert list(roster) == members


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the operator's, whose import stays in no other test's process."""
    file = tmp_path / "hospital.py"
    file.write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(own_code, "_imported", {})
    monkeypatch.delitem(sys.modules, "hospital", raising=False)
    return file


@pytest.fixture
def terms(model: Path) -> Terms:
    settings = server_settings({"db": "runs.sqlite", "ingest": 2, "model": "hospital:make"})
    return Terms(settings, "run", own_code.digests_of(settings))


def test_a_node_that_has_imported_another_file_than_its_server_is_none(terms: Terms, model: Path) -> None:
    Told.read(terms.told("node-1")).check_code()
    own_code._imported.clear()
    model.write_text(MODEL.replace("2, 2", "2, 3"))
    with pytest.raises(UsageError, match=rf"^--model hospital:make: {model} is not what this run's server has"):
        Told.read(terms.told("node-2")).check_code()


def test_what_a_process_has_imported_stays_in_it_whatever_the_file_becomes(terms: Terms, model: Path) -> None:
    """A node's process on a Ray cluster may outlive the server that it began with."""
    import_attribute("hospital:make", "--model")
    Told.read(terms.told("node-1")).check_code()
    model.write_text(MODEL.replace("2, 2", "2, 3"))
    changed = Terms(terms.settings, "run", own_code.digests_of(terms.settings))
    assert terms.agree_with(own_code.imported())
    assert not changed.agree_with(own_code.imported())
    with pytest.raises(UsageError, match="is not what this run's server has imported"):
        Told.read(changed.told("node-1")).check_code()
    assert changed.agree_with({}), "one that has imported nothing can be any run's"
