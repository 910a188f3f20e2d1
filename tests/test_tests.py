"""What the tests promise of themselves."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import warm
from tests.patience import PATIENCE
from tests.scheduling import LONGEST, TOGETHER, WITH_SERVERS, ByFixtures, starts_servers, unit_of

TESTS = Path(__file__).parent


@cache
def trees() -> list[tuple[str, ast.Module]]:
    """Every file below tests/, by its path there."""
    return [
        (str(path.relative_to(TESTS)), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(TESTS.rglob("*.py"))
    ]


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
    """Apart from ``e2e`` (processes and sockets), ``crash`` and ``fuzz``, which are about the whole."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")} - {Path()}
    of_a_source = {folder for folder in folders if folder.parts[0] not in ("crash", "e2e", "fuzz", "flclient")}
    assert Path("store") in of_a_source
    assert {folder for folder in of_a_source if not (TESTS.parent / "flserver" / folder).is_dir()} == set()


def test_the_profile_says_how_many_examples_there_are_and_that_none_has_a_deadline() -> None:
    found = {path for path, tree in trees() if "hypothesis.settings" in imported_by(tree)}
    assert found == {"conftest.py", "examples.py"}


def test_what_starts_a_server_comes_last(request: pytest.FixtureRequest) -> None:
    assert {name for name in WITH_SERVERS if not (TESTS / name).exists()} == set()
    starts = {
        "tests.e2e.harness.ServerProcess",
        "tests.e2e.conftest.Start",
        "tests.bench.driver.run",
        "tests.crash.command.run",
    }
    tests = {path for path, tree in trees() if starts & imported_by(tree) and Path(path).name.startswith("test_")}
    assert {Path(path).parts[0] for path in tests} == WITH_SERVERS
    late = [starts_servers(item.path) for item in request.session.items]
    assert late == sorted(late)


SERVICES = {"boto3", "botocore", "moto", "psycopg", "ray"}


def test_what_plain_ops_test_does_not_install_is_imported_by_no_file_that_it_collects(tmp_path: Path) -> None:
    found = [
        path.relative_to(TESTS.parent)
        for path in sorted(TESTS.rglob("*.py"))
        if path.name != "__main__.py" and re.search(r"postgres|psycopg|s3|\bray\b", path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 10
    program = tmp_path / "looks.py"
    program.write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({sorted(SERVICES)}))\n"
        + "".join(f"import {'.'.join(path.with_suffix('').parts)}\n" for path in found),
        encoding="utf-8",
    )
    env = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    process = warm.start([str(program)], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = process.communicate(PATIENCE)
    assert process.returncode == 0, said


def test_ops_test_says_of_each_mark_that_its_tests_are_left_out() -> None:
    script = (TESTS.parent / "ops" / "test").read_text(encoding="utf-8")
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    marks = {line.partition(":")[0] for line in project["tool"]["pytest"]["ini_options"]["markers"]}
    assert set(re.findall(r"leave_out (\w+) ", script)) == marks >= {"postgres", "s3", "ray", "fleet"}


WAITS = {"acquire", "communicate", "result", "settimeout", "urlopen", "wait", "wait_for"}
WALL_CLOCKS = {"monotonic", "perf_counter", "time"}


def called(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


def bounds(node: ast.AST) -> Iterator[ast.expr]:
    """What a call waits at most, and what is said to be more than the seconds that a wall clock has counted."""
    if isinstance(node, ast.Call):
        yield from (word.value for word in node.keywords if word.arg == "timeout")
        yield from node.args if called(node) in WAITS else ()
    elif isinstance(node, ast.Compare) and any(called(part) in WALL_CLOCKS for part in ast.walk(node)):
        yield from (
            most for op, most in zip(node.ops, node.comparators, strict=True) if isinstance(op, ast.Lt | ast.LtE)
        )


def in_seconds(tree: ast.Module) -> list[int]:
    """The lines in which a bound is a number of a second or more."""
    numbers = (bound for node in ast.walk(tree) for bound in bounds(node) if isinstance(bound, ast.Constant))
    return [number.lineno for number in numbers if isinstance(number.value, float | int) and number.value >= 1]


def test_no_test_says_in_seconds_how_fast_a_machine_is() -> None:
    """Less than one is a pause. For longer there are ``PATIENCE``, ``DEADLINE`` and the processor's time."""
    for line in ("assert perf_counter() - began < 2.0", "run(command, timeout=60)", "assert over.wait(5)"):
        assert in_seconds(ast.parse(line)) == [1]
    assert in_seconds(ast.parse("assert monotonic() - began > 2 and over.wait(PATIENCE) and not over.wait(0.1)")) == []
    assert {path: lines for path, tree in trees() if (lines := in_seconds(tree))} == {}


def test_a_fixture_of_a_module_is_made_in_one_worker() -> None:
    """What starts a server for each test is given to whichever is free, unless the server is a module's."""
    corpus, turns, ids = "e2e/hostile/test_hostile_corpus.py", "e2e/test_turns.py", "wire/test_ids.py"
    assert [unit_of(f"tests/{path}") for path in (ids, corpus, turns)] == [f"tests/{ids}", f"tests/{corpus}", None]
    tests = {path: tree for path, tree in trees() if Path(path).name.startswith("test_")}
    scattered = {path for path in tests if unit_of(f"tests/{path}") is None}
    of_a_module = {path for path in tests if "module" in map(fixture_scope, ast.walk(tests[path]))}
    assert turns in scattered
    assert corpus in of_a_module
    assert scattered & of_a_module == set()


def fixture_scope(node: ast.AST) -> str | None:
    """That of a decorator which makes a fixture."""
    words = node.keywords if isinstance(node, ast.Call) and called(node) == "fixture" else []
    return next((str(word.value.value) for word in words if isinstance(word.value, ast.Constant)), None)


def test_the_longest_are_there_and_start_servers() -> None:
    assert all(starts_servers(TESTS / name) and (TESTS / name).exists() for name in LONGEST)
    assert len(set(LONGEST)) == len(LONGEST) > 3


def test_what_asks_one_cluster_is_one_unit_and_runs_without_another_between() -> None:
    clusters = {"tests.ray_cluster.RayCluster", "tests.ray_machines.RayMachines", "tests.e2e.containers.Machines"}
    files = [file for together in TOGETHER.values() for file in together]
    tests = {path: tree for path, tree in trees() if Path(path).name.startswith("test_")}
    assert sorted(files) == sorted(path for path, tree in tests.items() if clusters & imported_by(tree))
    for unit, together in TOGETHER.items():
        assert {unit_of(f"tests/{file}") for file in together} == {unit}
        if starts_servers(TESTS / together[0]):
            begin = LONGEST.index(together[0])
            assert LONGEST[begin : begin + len(together)] == together


class Worker:
    """One of xdist's that is told what to run, and runs nothing."""

    gateway = SimpleNamespace(id="worker")

    def __init__(self) -> None:
        self.told: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.told += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def test_one_test_waits_behind_the_one_that_runs_and_each_is_run_once() -> None:
    collected = [f"tests/wire/test_ids.py::{number}" for number in range(4)]
    collected += [f"tests/e2e/test_turns.py::{number}" for number in range(9)]
    config: Any = SimpleNamespace(option=SimpleNamespace(), getvalue=lambda name: ["2*popen"])
    scheduler, one, other = ByFixtures(config, None), Worker(), Worker()
    for worker in (one, other):
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, collected)
    scheduler.schedule()
    assert (one.told, other.told) == ([0, 1, 2, 3], [4, 5]), "a unit whole, and two of one test"
    for done in range(3):
        assert len(one.told) == 4, "a file whose last two tests are left is enough"
        scheduler.mark_test_complete(one, done)
    assert len(one.told) == 5
    while not one.shutting_down:
        scheduler.mark_test_complete(one, one.told[done := done + 1])
        assert len(one.told) - done <= 3
    assert sorted(one.told + other.told) == list(range(len(collected)))


def test_a_warm_program_is_run_as_python_would_run_it(forker: None, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("told = 'beside'")
    (tmp_path / "program.py").write_text(
        "import os, sys\nfrom beside import told\nprint(told, *sys.argv[1:], os.getcwd())\n"
        "print(os.environ.get('X'), 'torch' in sys.modules, file=sys.stderr)\nsys.exit(3)\n"
    )
    for env, kept in (({"X": "1"}, True), ({"X": "1", "PYTHONDONTWRITEBYTECODE": "1"}, False)):
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        done = warm.run([str(tmp_path / "program.py"), "a b"], cwd=tmp_path, env=env)
        assert (done.returncode, done.stdout) == (3, f"beside a b {tmp_path}\n")
        assert done.stderr == "1 True\n", "what takes seconds to import is there"
        assert (tmp_path / "__pycache__").exists() == kept


def test_a_warm_program_has_this_checkout_imported_where_it_would_import_that(forker: None, tmp_path: Path) -> None:
    """And the arithmetic loaded, with a filter of warnings that is its own."""
    (tmp_path / "other" / "flserver").mkdir(parents=True)
    (tmp_path / "other" / "flserver" / "__init__.py").write_text("")
    (tmp_path / "program.py").write_text(
        "import sys, warnings\nprint('flserver.process.app' in sys.modules)\n"
        "import flserver\nprint(flserver.__file__)\n"
        "if k := sys.modules.get('flserver.aggregation.kernel'): print(k.load.cache_info().currsize)\n"
        "warnings.warn('old', DeprecationWarning)\n"
    )
    ours, other = str(TESTS.parent), str(tmp_path / "other")
    cases = [
        ({"PYTHONPATH": ours}, 0, f"True\n{ours}/flserver/__init__.py\n1\n"),
        ({"PYTHONPATH": ours, "PYTHONWARNINGS": "error"}, 1, f"True\n{ours}/flserver/__init__.py\n1\n"),
        ({"PYTHONPATH": f"{ours}:{other}"}, 0, f"True\n{ours}/flserver/__init__.py\n1\n"),
        ({"PYTHONPATH": f"{other}:{ours}"}, 0, f"False\n{other}/flserver/__init__.py\n"),
        ({"PYTHONPATH": ours, "XDG_CACHE_HOME": other}, 0, f"False\n{ours}/flserver/__init__.py\n"),
    ]
    for env, code, said in cases:
        done = warm.run([str(tmp_path / "program.py")], cwd=tmp_path, env=env)
        assert (done.returncode, done.stdout) == (code, said), (env, done.stderr)
        assert "DeprecationWarning: old" in done.stderr


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("print('a', end='')", 0, "a"),
        ("sys.exit('no')", 1, "no"),
        ("sys.exit(300)", 300 % 256, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("os.kill(os.getpid(), 2); time.sleep(1)", -2, "KeyboardInterrupt\n"),
        ("threading.Timer(0.1, print, ['last']).start()", 0, "last\n"),
        ("atexit.register(print, 'over')", 0, "over\n"),
        ("held = [open(os.devnull)]; held.append(held); del held", 0, "ResourceWarning: unclosed file"),
        ("sys.stdout.reconfigure(line_buffering=False, write_through=False); print('lost'); os.close(1)", 120, ""),
    ],
)
def test_a_warm_program_ends_as_python_ends(forker: None, tmp_path: Path, program: str, code: int, said: str) -> None:
    """Its threads, what it has registered, a cycle with an open file, and a standard output that is gone."""
    (tmp_path / "program.py").write_text(f"import atexit, os, sys, threading, time\n{program}\n")
    env = {"PYTHONWARNINGS": "error"}
    cold = [sys.executable, str(tmp_path / "program.py")]
    usual = subprocess.run(cold, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE)
    done = warm.run(cold[1:], cwd=tmp_path, env=env)
    assert done.returncode == usual.returncode == code
    assert done.stdout == usual.stdout
    for ended in (done, usual):
        assert said in ended.stdout + ended.stderr


def test_a_signal_to_a_warm_program_that_has_just_ended_goes_nowhere(
    forker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its end and the word of it, as it was in a test that signals until a server has ended."""
    (tmp_path / "program.py").write_text("")
    process = warm.start([str(tmp_path / "program.py")], cwd=tmp_path, env={})
    assert process.wait(PATIENCE) == 0
    process.returncode = None
    monkeypatch.setattr(warm.Forker, "status", lambda *_: None)
    process.terminate()
    assert process.poll() is None, "nobody has said so yet"
