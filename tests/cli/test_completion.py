"""Real shells complete commands, options and runs with the script that is printed for them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Run, refused
from tests.patience import PATIENCE
from tests.recorded_run import RUN
from tests.store import story

BASH = """
eval "$(flserver completion bash)"
complete -p flserver
ask() {
    COMP_WORDS=(flserver "$@"); COMP_CWORD=$#; COMPREPLY=()
    _flserver_completion flserver; printf "%s\\n" "${COMPREPLY[@]}" --
}
"""
ZSH = """
compdef() { echo "compdef $*" }
eval "$(flserver completion zsh)"
_describe() { print -l -- "${(@P)3}" }
compadd() { print -l -- "${(@P)5}" }
ask() { words=(flserver "$@"); CURRENT=$(( $# + 1 )); _flserver_completion; print -r -- -- }
"""
ASKED = """
ask runs --so
ask --db "$DB" show ni
ask --db "$DB" show 20260131
ask --db "$DB" compare night ""
ask --db nowhere.sqlite show n
"""


def said(shell: str, script: str, db: Path, tmp_path: Path) -> list[str]:
    """What the shell prints that runs the script, with ``flserver`` a program of this checkout."""
    program = tmp_path / "bin" / "flserver"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m flserver "$@"\n')
    program.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLSERVER_")}
    environment |= {"PATH": f"{program.parent}:{environment['PATH']}", "PYTHONPATH": str(ROOT), "DB": str(db)}
    command = [shell, *(("--norc", "--noprofile") if shell == "bash" else ("-f",)), "-c", script + ASKED]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("zsh", ZSH)])
def test_a_shell_completes_commands_options_and_runs(shell: str, script: str, db: Path, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    story.write(db, story.started("hostile", 9, "night$(touch ran)"), run_id="hostile", process_id=9)
    registered, *answers = said(shell, script, db, tmp_path)
    assert "_flserver_completion" in registered
    asked: list[list[str]] = [[]]
    for line in answers:
        if line == "--":
            asked.append([])
        elif line:
            asked[-1].append(line.partition(":")[0])  # zsh has a description behind it
    assert asked[:3] == [["--sort"], ["night"], [RUN]]
    assert sorted(asked[3]) == ["hostile", "newest", "night", "plain"]
    assert asked[4:] == [[], []], "what cannot be read completes to nothing"
    assert not (tmp_path / "ran").exists()


def test_another_shell_is_refused(flserver: Run) -> None:
    refused(flserver("completion", "tcsh"), "'tcsh' is not one of 'bash', 'zsh'")
