"""The lock file, and what is known of the packages in it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "ops" / "requirements.lock"
LOCKED = re.compile(r"([a-z0-9-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}\n")


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    """The versions by name."""
    comment, _, entries = LOCK.read_text(encoding="utf-8").partition("\n")
    assert comment.startswith("# Written by ops/write-requirements")
    assert LOCKED.sub("", entries) == "", "nothing stands there but packages, each with its digest: no address, no host"
    return dict(LOCKED.findall(entries))


def test_whatever_the_project_needs_is_locked_in_a_version_that_it_takes(locked: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [Requirement(text) for text in project["project"]["dependencies"] + project["build-system"]["requires"]]
    assert len(needed) > 10
    for requirement in needed:
        assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement
    assert {"markupsafe", "typing-extensions"} <= locked.keys(), "what those need too"


def test_the_container_installs_what_is_locked_and_nothing_else() -> None:
    text = (ROOT / "ops" / "container" / "Containerfile").read_text(encoding="utf-8")
    installs = re.findall(r"pip install (.*)", text)
    assert len(installs) == 2
    ((lock, copied),) = re.findall(r"^ARG LOCK=(\S+)\nCOPY \$\{LOCK\} (\S+)$", text, re.MULTILINE)
    assert (ROOT / lock) == LOCK, "--build-arg LOCK names another, such as the one for the CPU"
    assert f"-r {copied}" in installs[0]
    assert "--require-hashes --no-deps -r" in installs[0]
    assert "--no-deps --no-build-isolation /src" in installs[1]


def test_the_container_has_all_that_the_package_is_made_of() -> None:
    text = (ROOT / "ops" / "container" / "Containerfile").read_text(encoding="utf-8")
    copied = {}
    for *sources, target in map(str.split, re.findall(r"^COPY (.*)$", text, re.MULTILINE)):
        copied |= {source: f"{target}{source}" if target.endswith("/") else target for source in sources}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    parts = {"pyproject.toml", project["project"]["readme"], *wheel["packages"], *wheel["force-include"]}
    assert {part: copied.get(part) for part in parts} == {part: f"/src/{part}" for part in parts}


Audit = Callable[[str | None, int], "subprocess.CompletedProcess[str]"]

FAKE = """#!{python}
import json, sys
sys.stderr.write("as pip-audit would\\n")
found = {found!r}
if found is not None:
    with open(sys.argv[sys.argv.index("--output") + 1], "w") as file:
        file.write(found)
sys.exit({code})
"""


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """The command with a pip-audit that has found this."""

    def run(found: str | None, code: int) -> "subprocess.CompletedProcess[str]":
        program = tmp_path / "pip-audit"
        program.write_text(FAKE.format(python=sys.executable, found=found, code=code))
        program.chmod(0o755)
        environment = os.environ | {"PIP_AUDIT": str(program), "PYTHON": sys.executable}
        return subprocess.run([ROOT / "ops" / "audit-dependencies"], env=environment, capture_output=True, text=True)

    return run


def report(locked: dict[str, str], **special: dict[str, object]) -> str:
    """What pip-audit says of the packages: that nothing is known, but for ``special`` ones."""
    clean = {name: {"name": name, "version": version, "vulns": []} for name, version in locked.items()}
    return json.dumps({"dependencies": [*(clean | special).values()]})


def test_where_nothing_is_known_of_any_package_all_is_well(audit: Audit, locked: dict[str, str]) -> None:
    done = audit(report(locked), 0)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(locked)} of {len(locked)} packages were looked up; 0 known vulnerabilities in them\n"


def test_what_is_known_is_said(audit: Audit, locked: dict[str, str]) -> None:
    bad = {"name": "mako", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2", "3"]}]}
    done = audit(report(locked, mako=bad), 1)
    assert done.returncode == 1
    assert "mako 1: CVE-1, mended in 2, 3" in done.stdout


@pytest.mark.parametrize("code", [0, 1])
def test_what_was_not_looked_up_is_not_called_well(audit: Audit, locked: dict[str, str], code: int) -> None:
    """pip-audit skips what it cannot reach, and says that nothing is known."""
    done = audit(report(locked, mako={"name": "mako", "skip_reason": "not found"}), code)
    assert done.returncode == 2
    assert "NOT looked up: mako\n" in done.stderr
    skipped = {name: {"name": name, "skip_reason": "not found"} for name in locked}
    for found in (report(locked, **skipped), None, "", "no JSON"):
        done = audit(found, code)
        assert done.returncode == 2
        assert f"0 of {len(locked)} packages were looked up" in done.stdout
        assert "NOT looked up: the list could not be reached" in done.stderr


# --- the lock is written ---------------------------------------------------------------------------------------------

FAKE_PYTHON = """#!{python}
import json, os, shutil, sys
from pathlib import Path

here, arguments = Path({here!r}), sys.argv[1:]
if arguments[0] == "-":
    os.execv({python!r}, [{python!r}, *arguments])
if arguments[:2] == ["-m", "venv"]:
    (Path(arguments[2]) / "bin").mkdir(parents=True)
    shutil.copy(__file__, Path(arguments[2]) / "bin" / "python")
if arguments[:2] == ["-m", "pip"]:
    index = sorted(name for name in os.environ if name.startswith("PIP_INDEX"))
    with (here / "asked").open("a") as file:
        print(json.dumps([arguments[2:], index]), file=file)
    if "--report" in arguments:
        shutil.copy(here / "report.json", arguments[arguments.index("--report") + 1])
        shutil.copy(arguments[arguments.index("--requirement") + 1], here / "wanted")
"""
CPU = "https://download.pytorch.org/whl/cpu"
FOUND = {"torch": "2.9.1+cpu", "Typing_Extensions": "4.15.0", "alembic": "1.17.2"}


def write_lock(folder: Path, *options: str) -> tuple[list[str], list[str], list[str]]:
    """The lines of a lock written with a pip that has ``FOUND``; how that was called last; what it was to look for."""
    installed = [
        {
            "metadata": {"name": name, "version": version},
            "download_info": {"archive_info": {"hashes": {"sha256": f"{number:064x}"}}},
        }
        for number, (name, version) in enumerate(FOUND.items())
    ]
    (folder / "report.json").write_text(json.dumps({"install": installed}))
    python, out = folder / "python", folder / "written.lock"
    python.write_text(FAKE_PYTHON.format(python=sys.executable, here=str(folder)))
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "PIP_INDEX_URL": "https://somewhere.else/simple"}
    command = [ROOT / "ops" / "write-requirements", "--upgrade", "--out", out, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"wrote {out}: 3 packages\n"), done.stderr
    asked = [json.loads(line) for line in (folder / "asked").read_text().splitlines()]
    assert [index for _, index in asked] == [[]] * len(asked), "no index but the one that an option names"
    return out.read_text().splitlines(), asked[-1][0], (folder / "wanted").read_text().splitlines()


def test_a_lock_has_each_package_with_its_version_and_digest(tmp_path: Path) -> None:
    lines, asked, wanted = write_lock(tmp_path)
    assert lines[0].startswith("# Written by ops/write-requirements")
    assert lines[1:] == [
        "alembic==1.17.2 \\",
        f"    --hash=sha256:{2:064x}",
        "torch==2.9.1+cpu \\",
        f"    --hash=sha256:{0:064x}",
        "typing-extensions==4.15.0 \\",
        f"    --hash=sha256:{1:064x}",
    ]
    assert {"--dry-run", "--ignore-installed", "--only-binary"} <= set(asked)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert wanted == project["project"]["dependencies"] + project["build-system"]["requires"]


@pytest.mark.parametrize("option", [("--extra-index-url", CPU), (f"--extra-index-url={CPU}",)], ids=len)
def test_a_lock_from_another_index_names_it_where_pip_reads_it(tmp_path: Path, option: tuple[str, ...]) -> None:
    lines, asked, _ = write_lock(tmp_path, *option)
    assert tuple(asked[-len(option) :]) == option
    assert lines[1] == " ".join(option)
