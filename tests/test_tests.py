"""What the tests promise of themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every file below tests/, by its path there."""
    for path in sorted(TESTS.rglob("*.py")):
        yield str(path.relative_to(TESTS)), ast.parse(path.read_text(encoding="utf-8"))


def imported_by(tree: ast.Module) -> set[str]:
    """What is imported, wherever in it, by its full name: ``a.b.c`` for ``from a.b import c``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_test_file_is_anothers_library() -> None:
    """What two of them use stands in a file that is none of them, or in a conftest."""
    imports = {path: imported_by(tree) for path, tree in trees()}
    assert "pathlib.Path" in imports["test_tests.py"]
    libraries = {
        path: found
        for path, names in imports.items()
        if (found := {name for name in names if any(part.startswith("test_") for part in name.split("."))})
    }
    assert libraries == {}


def test_tests_lie_where_their_sources_lie() -> None:
    """Apart from ``e2e`` (processes and sockets) and ``fuzz``, which are about the whole."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")} - {Path()}
    of_a_source = {folder for folder in folders if folder.parts[0] not in ("e2e", "fuzz", "flclient")}
    assert Path("store") in of_a_source
    assert {folder for folder in of_a_source if not (TESTS.parent / "flserver" / folder).is_dir()} == set()


def test_the_profile_says_how_many_examples_there_are_and_that_none_has_a_deadline() -> None:
    found = {path for path, tree in trees() if "hypothesis.settings" in imported_by(tree)}
    assert found == {"conftest.py", "examples.py"}
