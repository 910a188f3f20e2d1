"""Who may import whom, and the few other things that the design promises of the source itself."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("flserver", "flclient", "migrations")
LONGEST, LONGEST_TEST = 300, 400  # lines; a longer file is two rooms
PURE = (
    "flserver.aggregation",
    "flserver.evidence.verify",
    "flserver.heads.note",
    "flserver.heads.proofs",
    "flserver.heads.tree",
    "flserver.identity.peer",
    "flserver.identity.rules",
    "flserver.models.retention",
    "flserver.rounds.join_window",
    "flserver.rounds.losses",
    "flserver.rounds.outcomes",
    "flserver.rounds.rules",
    "flserver.rounds.seats",
    "flserver.rounds.sent",
    "flserver.rounds.waiting",
)

LOCKS = "flserver.aggregation.strategies.fedavg"  # which several threads may call at once


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> frozenset[str]:
    """Every module that ``module`` imports, wherever in it: ours by full name, ``flserver`` alone for its version."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in SOURCES else str(node.module))
    return frozenset(found)


def within(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def modules_in(*rooms: str) -> list[str]:
    return [module for module in SOURCES if within(module, *rooms)]


def importers_of(package: str) -> set[str]:
    """The modules that import ``package`` or something in it."""
    return {module for module in SOURCES if any(within(imported, package) for imported in imports_of(module))}


def ours(module: str) -> set[str]:
    return {imported for imported in imports_of(module) if within(imported, *PACKAGES)}


def test_the_sources_are_found() -> None:
    assert {"flserver", "flserver.process.app", "flserver.wire.template", "flserver.models.training"} <= set(SOURCES)
    assert "flserver.events" in imports_of("flserver.rounds.committer"), "from flserver import events"
    assert "flserver.process.app" in imports_of("flserver.process.launch"), "inside a function"


@pytest.mark.parametrize("module", modules_in("flserver.wire"))
def test_the_wire_imports_only_errors_and_the_standard_library(module: str) -> None:
    io = {"asyncio", "os", "pathlib", "select", "selectors", "socket", "ssl", "threading", "time"}
    for imported in imports_of(module):
        top = imported.partition(".")[0]
        assert within(imported, "flserver.wire", "flserver.errors") or top in sys.stdlib_module_names - io, imported


@pytest.mark.parametrize("module", modules_in(*PURE))
def test_what_is_pure_has_no_clock_thread_socket_or_database(module: str) -> None:
    banned_here = {"asyncio", "socket", "threading", "time", "sqlite3", "sqlalchemy", "flserver.clock"}
    for banned in banned_here - ({"threading"} if module == LOCKS else set()):
        assert not any(within(imported, banned) for imported in imports_of(module)), banned


READS_BACK = "flserver.models.read_back"  # our own model, in a process of its own: decisions/hooks-read-back.md


def test_only_the_template_touches_pickle_and_nothing_in_a_server_reads_one() -> None:
    for reader in ("pickle", "_pickle", "pickletools", "shelve", "marshal", "dill", "cloudpickle", "joblib"):
        homes = {"flserver.wire.template", READS_BACK} if reader == "pickle" else set()
        assert importers_of(reader) == homes, reader
    found = set()
    for module in SOURCES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                if called in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
                    found.add((module, called))
    assert found == {(READS_BACK, "pickle.load")}


def test_what_reads_our_own_model_back_is_a_process_and_nobodys_library() -> None:
    assert importers_of(READS_BACK) == set()
    named = [m for m in SOURCES if READS_BACK in (SOURCES[m].read_text(encoding="utf-8")) and m != READS_BACK]
    assert named == ["flserver.models.carried"]


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("sqlalchemy", ("flserver.store", "migrations")),
        ("sqlite3", ("flserver.store", "migrations")),
        ("cryptography", ("flserver.heads.keys", "flserver.heads.model_keys")),
        ("matplotlib", ("flserver.report.charts",)),
        ("jinja2", ("flserver.report.page",)),
        ("alembic", ("flserver.store.schema", "migrations")),
        ("prometheus_client", ("flserver.observers.metrics",)),
        ("flserver.process.app", ("flserver.process.launch",)),
        ("flserver.process.launch", ("flserver.cli.serve",)),
        ("flserver.cli", ("flserver.__main__", "flserver.cli")),
        ("flclient", ("flclient",)),
    ],
)
def test_who_may_import_it(package: str, homes: tuple[str, ...]) -> None:
    importers = importers_of(package)
    assert importers, f"nobody imports {package}: this test looks for nothing"
    assert {module for module in importers if not within(module, *homes)} == set()


@pytest.mark.parametrize("module", modules_in("flserver.observers"))
def test_observers_see_and_never_decide(module: str) -> None:
    seen = tuple(f"flserver.{room}" for room in ("observers", "events", "clock", "errors", "settings.hosts", "text"))
    assert {imported for imported in ours(module) if not within(imported, *seen)} == set()


@pytest.mark.parametrize("module", modules_in("flclient"))
def test_the_trainer_shares_only_what_both_ends_need(module: str) -> None:
    shared = ("wire", "errors", "settings", "models", "clock", "text")
    allowed = ("flclient", *(f"flserver.{room}" for room in shared))
    assert {m for m in ours(module) if m != "flserver" and not within(m, *allowed)} == set()


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_no_two_rooms_need_each_other() -> None:
    """Rooms are the modules and packages right below flserver; what is imported late counts too."""
    graph: dict[str, set[str]] = {}
    for module in modules_in("flserver"):
        room = room_of(module)
        graph.setdefault(room, set()).update({room_of(m) for m in ours(module)} - {room, "flserver"})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from error


@pytest.mark.parametrize("module", modules_in("flserver", "flclient"))
def test_nothing_sleeps(module: str) -> None:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            assert "sleep" not in {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and node.attr == "sleep":
            raise AssertionError(f"{module}:{node.lineno} sleeps")


def too_long(folder: Path, longest: int) -> dict[str, int]:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py")}
    return {name: lines for name, lines in lengths.items() if lines > longest}


def test_files_stay_short() -> None:
    for package in PACKAGES:
        assert too_long(ROOT / package, LONGEST) == {}
    assert too_long(ROOT / "tests", LONGEST_TEST) == {}
    assert "tests.test_architecture" in too_long(ROOT / "tests", 100), "they are counted"


@pytest.mark.parametrize(
    "code",
    [
        "from flserver.cli.main import run_cli; run_cli(['--help'])",
        "from flserver.cli.main import run_cli; run_cli(['--print-config'])",
        "import flserver.process.launch",
        "from flclient.cli import flclient; flclient.main(['--help'], standalone_mode=False)",
    ],
)
def test_help_answers_and_the_port_is_open_before_anything_slow_is_imported(code: str) -> None:
    slow = ("torch", "torchvision", "numpy", "sqlalchemy", "alembic", "prometheus_client", "sklearn")
    check = f"import sys; {code}; print(*(m for m in {slow} if m in sys.modules), file=sys.stderr, end='')"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_comes_before_the_first_registration_is_answered_does_without_torch() -> None:
    late = sorted(ours("flserver.process.launch"))
    assert {"flserver.process.which_run", "flserver.store.schema", "flserver.process.app"} <= set(late), "in functions"
    looked_for = ("torch", "numpy", "flserver.network.session")
    check = f"import sys, {', '.join(late)}; print(*(m in sys.modules for m in {looked_for}))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False False True\n", "")
