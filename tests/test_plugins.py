"""The door by which operators' own code comes in."""

import hashlib
import sys
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.plugins import check_importable, check_name, file_of, import_attribute


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An operator's folder with a package; what a test imports is forgotten after it."""
    package = tmp_path / "lab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fl.py").write_text("class Median:\n    window = 3\n")
    (tmp_path / "broken.py").write_text("import no_such_thing")
    (tmp_path / "exits.py").write_text("raise ValueError('line one\\nline two')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("lab", "lab.fl", "broken", "exits"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    return tmp_path


def test_an_attribute_is_found_in_this_folder() -> None:
    assert import_attribute("lab.fl:Median", "--strategy").__name__ == "Median"
    assert import_attribute("lab.fl:Median.window", "--strategy") == 3


def test_what_is_installed_comes_before_this_folder(folder: Path) -> None:
    (folder / "json.py").write_text("mine = True")
    with pytest.raises(UsageError, match="json has no mine"):
        import_attribute("json:mine", "--model")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nonsense", "is not of the form package.module:name"),
        ("lab.fl:", "is not of the form"),
        (":Median", "is not of the form"),
        ("lab..fl:Median", "is not of the form"),
        ("os.path:join; print()", "is not of the form"),
        ("no_such_module:f", "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken:f", "cannot import broken: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("no_such_module:f", "(looked for on PYTHONPATH and in this folder)"),
        ("exits:f", "cannot import exits: ValueError: line one"),
        ("lab.fl:Mean", "lab.fl has no Mean"),
        ("lab.fl:median", "lab.fl has no median; did you mean 'Median'?"),
        ("lab.fl.Median", "did you mean 'lab.fl:Median'?"),
        ("lab.fl:Median.size", "lab.fl has no Median.size"),
    ],
)
def test_what_is_not_there_is_a_usage_error_of_one_line(spec: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        import_attribute(spec, "--evaluate")
    assert str(caught.value).startswith(f"--evaluate {spec!r}")
    assert reason in str(caught.value)
    assert "torchvision" not in str(caught.value), "only --model has its models"
    assert "\n" not in str(caught.value)


def test_what_can_be_found_is_seen_without_importing_it(folder: Path) -> None:
    (folder / "space").mkdir()
    for spec in ("lab.fl:Median", "exits:f", "json:loads", "space.of.names:f"):
        check_importable(spec, "--evaluate")
    check_name("fedavg", "--strategy", ("fedavg",))
    check_name("lab.fl:Median", "--strategy", ("fedavg",))
    assert "lab" not in sys.modules


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("labs:f", "cannot import labs: there is no module labs (looked for on PYTHONPATH and in this folder)"),
        ("labs:f", "did you mean 'lab'?"),
        ("torchvison.models:f", "did you mean 'torchvision'?"),
        ("fed.avg:", "is not of the form"),
        ("fedagv", "is neither fedavg nor of the form package.module:Class; did you mean 'fedavg'?"),
    ],
)
def test_what_cannot_be_found_is_said_with_what_was_meant(spec: str, reason: str) -> None:
    look = check_importable if ":" in spec else check_name
    with pytest.raises(UsageError) as caught:
        look(spec, "--evaluate", ("torchvision" if ":" in spec else "fedavg",))
    assert reason in str(caught.value)


@pytest.mark.parametrize("imported", [False, True])
def test_the_file_of_what_an_operator_names_is_known_by_its_digest(folder: Path, imported: bool) -> None:
    if imported:
        import_attribute("lab.fl:Median", "--strategy")
    file = folder / "lab" / "fl.py"
    assert file_of("lab.fl:Median") == (str(file), f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}")
    assert ("lab.fl" in sys.modules, "lab" in sys.modules) == (imported, imported), "it is not imported for that"
    assert file_of("lab:x")[0] == str(folder / "lab" / "__init__.py")
    file.unlink()
    for nothing in ("lab.fl:Median", "never_imported:x", "fedavg", "", "sys:path", "torchvision:resnet18"):
        assert file_of(nothing) == (None, None), nothing
