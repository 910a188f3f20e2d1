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
    installs = re.findall(
        r"pip install (.*)", (ROOT / "ops" / "container" / "Containerfile").read_text(encoding="utf-8")
    )
    assert len(installs) == 2
    assert "--require-hashes --no-deps -r" in installs[0]
    assert "--no-deps --no-build-isolation /src" in installs[1]


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
