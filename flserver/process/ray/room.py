"""Whether so many nodes can be on a Ray cluster, before anything is made: the cluster is asked, and not joined."""

import json
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from flserver.cluster.ray import ACTOR_CPUS, MOST_OF_RAYS, require_tokens
from flserver.errors import UsageError

ASK_SECONDS = 30.0  # for the answer; Ray's import is a part of them
TOKENS = ("AuthenticationError", "auth token", "authentication token", "Unauthenticated", "RAY_AUTH_TOKEN")
"""How it shows in Ray's words that the token is none, or another."""


def require_room(address: str, nodes: int) -> None:
    """Raises UsageError where so many nodes cannot be there, in one line that says what is wrong."""
    require_tokens()
    if (problem := problem_of(ask(address), nodes)) is not None:
        raise UsageError(f"--ray-address {address}: {problem}")


def ask(address: str) -> Mapping[str, Any]:
    """What ``asked`` prints of the cluster; an ``error`` also where it prints nothing."""
    command = [sys.executable, "-m", "flserver.process.ray.asked", address]
    try:
        asked = subprocess.run(command, capture_output=True, timeout=ASK_SECONDS, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {"error": "Timeout", "said": f"nothing within {ASK_SECONDS:g} s"}
    lines = asked.stdout.decode(errors="replace").splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"error": f"exit code {asked.returncode}", "said": asked.stderr.decode(errors="replace")}
    return found


def problem_of(told: Mapping[str, Any], nodes: int) -> str | None:
    """What is wrong where a cluster has ``told`` that of itself; None where ``nodes`` can be there."""
    if "error" in told:
        said = " ".join(str(told["said"]).split())
        if any(word.lower() in f"{told['error']} {said}".lower() for word in TOKENS):
            return (
                "there is no token here, or another one: Ray wants the token to be the cluster's (RAY_AUTH_TOKEN, the "
                "file of RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token)"
            )
        return f"what answers there is no Ray cluster that can be asked; Ray says: {said[:MOST_OF_RAYS]}"
    ours = {"Python": platform.python_version(), "Ray": version("ray")}
    theirs = {"Python": told["python"], "Ray": told["ray"]}
    if ours != theirs:
        return f"the cluster has {_both(theirs)}, and this machine {_both(ours)}: they have to be the same everywhere"
    machines: Sequence[Mapping[str, Any]] = told["machines"]
    if not any(is_here(machine["address"]) for machine in machines):
        there = ", ".join(machine["address"] for machine in machines) or "none"
        return f"this machine does not belong to the cluster, whose machines are {there}: `ray start --address` here"
    room = sum(int(machine["cpus"] / ACTOR_CPUS) for machine in machines)
    if room < nodes:
        return (
            f"--ingest {nodes} are more nodes than the {room} that have room there: each takes {ACTOR_CPUS:g} CPU as "
            f"Ray counts, and {len(machines)} machines have {sum(machine['cpus'] for machine in machines):g}"
        )
    return None


def is_here(address: str) -> bool:
    """Whether that is an address of this machine."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as trial:
            trial.bind((address, 0))
    except OSError:
        return False
    return True


def _both(versions: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {number}" for name, number in versions.items())
