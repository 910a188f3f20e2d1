"""The wheel has in it what a server needs, and a server that is installed from it needs nothing else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "flserver", "flclient", "migrations", "ops/sql", "tests")
MIGRATIONS = sorted(path.name for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because a build leaves files among its sources; with the hatchling that is here."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, sources)
    pip("wheel", str(sources), "--no-deps", "--no-build-isolation", "-w", str(out))
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", str(wheel), "--no-deps", "--target", str(target))
    return target


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def python(installed: Path, folder: Path, *arguments: str) -> str:
    """Standard output of Python in ``folder``, where only the installed wheel is in the way of the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_")}
    environment["PYTHONPATH"] = str(installed)
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    packed = {name for name in names if name.endswith(".py")}
    for package, inside in (("flserver", "flserver"), ("flclient", "flclient"), ("migrations", "flserver/migrations")):
        for path in (ROOT / package).rglob("*.py"):
            assert f"{inside}/{path.relative_to(ROOT / package).as_posix()}" in packed, path
    assert {"flserver/README.md", "flserver/py.typed"} <= set(names)
    assert {f"flserver/report/templates/report.{end}" for end in ("html", "css")} <= set(names)
    assert "flserver/record/templates/database-record.html" in names
    assert {name.partition("/")[0] for name in names} == {"flserver", "flclient"}, "no tests, no migrations at the top"
    assert not [name for name in names if any(part.startswith("test") for part in name.split("/"))]


def test_its_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(entry_points).decode()
    assert "flserver = flserver.__main__:main" in text
    assert "flclient = flclient.__main__:main" in text


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    code = (
        "import flserver, flclient, flserver.store.schema as s; print(flserver.__file__, flclient.__file__, s.__file__)"
    )
    for file in python(installed, tmp_path, "-c", code).split():
        assert Path(file).is_relative_to(installed)
    code = "from flserver.store.schema import migrations_directory as d; print(d())"
    assert Path(python(installed, tmp_path, "-c", code).strip()) == installed / "flserver" / "migrations"


def test_its_own_migrations_make_a_database(installed: Path, tmp_path: Path) -> None:
    assert "x.sqlite is at" in python(installed, tmp_path, "-m", "flserver", "db", "upgrade", "--db", "x.sqlite")
    state = json.loads(python(installed, tmp_path, "-m", "flserver", "db", "check", "--db", "x.sqlite"))
    assert state["at_head"] is True
    assert MIGRATIONS[-1].startswith(state["schema"])
    assert python(installed, tmp_path, "-m", "flserver", "runs", "--db", "x.sqlite") == "no runs yet\n"


UPGRADES = """
import contextlib, io, json, sys, traceback
from pathlib import Path
from typing import Any
from alembic import command
from flserver.cli.main import run_cli
from flserver.store.schema import _config
from flserver.store.sqlite import writing_engine

def upgraded(name):
    path = Path(f"{name}.sqlite")
    if name == "empty":
        path.touch()
    else:
        config = _config(None)
        with writing_engine(path, create=True).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, name)
    for asked in ("upgrade", "check"):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = run_cli(["db", asked, "--db", str(path)])
        assert code == 0, f"db {asked} ends with {code}"
    return json.loads(said.getvalue())

for name in sys.argv[1:]:
    try:
        told = upgraded(name)
    except Exception:
        told = {"failed": traceback.format_exc()}
    print(json.dumps([name, told]))
"""
BEFORE = ("empty", *(name.partition("_")[0] for name in MIGRATIONS))


@pytest.fixture(scope="module")
def upgraded(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``db check`` says after ``db upgrade``, by what there was before; in one Python, which takes longer
    to start than any of them takes."""
    said = python(installed, tmp_path_factory.mktemp("upgraded"), "-c", UPGRADES, *BEFORE)
    return dict(map(json.loads, said.splitlines()))


@pytest.mark.parametrize("before", BEFORE)
def test_a_database_of_every_revision_is_brought_to_the_newest(upgraded: dict[str, Any], before: str) -> None:
    """``empty`` is an empty file; the newest revision is left as it is."""
    assert "failed" not in upgraded[before], upgraded[before]["failed"]
    assert upgraded[before]["at_head"] is True
