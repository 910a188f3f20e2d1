"""A run's settings on record: what of them, and how they are read back."""

import json
from pathlib import Path

import pytest

from flserver.settings import server_settings
from flserver.settings.recorded import NOT_OF_THE_RUN, checkpoints_of, config_of, from_anywhere, settings_of


def test_what_is_this_processs_business_is_not_recorded() -> None:
    settings = server_settings({"db": "other.sqlite", "log_format": "json", "log_level": "debug", "num_rounds": 7})
    recorded = config_of(settings)
    assert (
        set(settings.values) - set(recorded)
        == set(NOT_OF_THE_RUN)
        == {
            "db",
            "resume",
            "standby",
            "run_name",
            "log_format",
            "log_level",
            "actor",
            "reason",
        }
    )
    assert recorded["num_rounds"] == 7
    assert settings_of({"config": json.dumps(recorded)}) == recorded


def test_paths_are_recorded_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = config_of(server_settings({"tls_cert": "server.crt", "clients": "certs/clients.csv"}))
    assert recorded["tls_cert"] == str(tmp_path / "server.crt")
    assert (recorded["clients"], recorded["tls_key"]) == (str(tmp_path / "certs" / "clients.csv"), None)


def test_a_nodes_settings_are_those_of_a_server_that_stood_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is another; --standby asks for a record on PostgreSQL, whose URL is no path."""
    monkeypatch.chdir(tmp_path)
    url = "postgresql://fl@db.example/runs?sslmode=verify-full"
    values = server_settings({"db": url, "standby": True, "checkpoint_dir": "models", "clients": "clients.csv"}).values
    told = server_settings(from_anywhere(values))
    assert str(told.store.db) == url
    assert (told.store.checkpoint_dir, told.values["clients"]) == (tmp_path / "models", str(tmp_path / "clients.csv"))
    assert from_anywhere({"db": "runs.sqlite"}) == {"db": str(tmp_path / "runs.sqlite")}


def test_the_checkpoints_lie_as_given_or_as_recorded_or_beside_the_database() -> None:
    db = Path("moved/runs.sqlite")
    recorded, silent = ({"config": json.dumps({"checkpoint_dir": folder})} for folder in ("/models", None))
    assert checkpoints_of(recorded, Path("given"), db) == Path("given")
    assert checkpoints_of(recorded, None, db) == Path("/models")
    assert checkpoints_of(silent, None, db) == Path("moved/runs.sqlite.checkpoints")
