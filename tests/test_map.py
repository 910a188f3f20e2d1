"""The map of the code: every name in it exists, and the strategy that it shows runs."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from flserver import events
from flserver.events import words
from flserver.settings import SERVER_SETTINGS

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "flserver"
MAPS = (HOUSE / "README.md", *sorted((HOUSE / "decisions").glob("*.md")))
OUTSIDE = ("ops/", "tests/", "migrations/")
# What is meant as text: a form that is typed or sent, or somebody else's name.
TEXT = {
    "package.module:Class",
    "pyproject.toml",
    "/checkpoint",
    "/metrics",
    "cryptography",
    "flclient",
    "flserver",
    "flserver check",
    "flserver[sign]",
    "flserver/migrations",
    "sha256sum",
    "purpose",
    "safetensors",
    "save_file",
    "pickle.dumps",
    "torch.save",
    "threading.Event",
    "signal.sigwait",
    "sent_at",
    ".value",
    "Literal",
}
WORDS = {word for name in dir(words) if name.isupper() for word in getattr(words, name)}
OPTIONS = {f"--{setting.name}" for setting in SERVER_SETTINGS}


def names_in(path: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", text))


def is_path(name: str) -> bool:
    base = ROOT if name.startswith(OUTSIDE) else HOUSE
    return ("/" in name or name.endswith((".py", ".md"))) and (base / name).exists()


def is_python(name: str) -> bool:
    """A dotted name below the package, or a public name of a class or function that is told by itself."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        module = "flserver." + ".".join(parts[:cut])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if part not in getattr(found, "__dataclass_fields__", {}) and not hasattr(found, part):
                return False
            found = getattr(found, part, None)
        return True
    return False


SHORT = {  # where a decision speaks of one room, its class goes without its module
    "Exchange": "rounds.exchange",
    "Strategy": "aggregation",
    "Attempt": "rounds.seats",
    "SentModel": "rounds.seats",
    "Updates": "rounds.updates",
    "send_frame": "network.transport",
    "flush": "store.writer.Writer",
    "state": "aggregation.Strategy",
    "load_state": "aggregation.Strategy",
    "register": "rounds.exchange.Exchange",
    "confirm_registration": "rounds.exchange.Exchange",
}


def exists(name: str) -> bool:
    first = name.partition(".")[0]
    return (
        name in TEXT | WORDS | OPTIONS
        or name in events.__all__
        or is_path(name)
        or is_python(name)
        or (first in SHORT and is_python(f"{SHORT[first]}.{name}"))
    )


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.stem)
def test_every_name_in_the_map_and_the_decisions_exists(path: Path) -> None:
    assert {name for name in names_in(path) if not exists(name)} == set()


def test_a_name_that_is_gone_is_found() -> None:
    for name in ("rounds.exchange.Exchange.admit", "network/participation.py", "--no-such-option", "RunPaused"):
        assert not exists(name)


@pytest.mark.parametrize("path", MAPS[1:], ids=lambda path: path.stem)
def test_a_decision_says_what_why_and_what_else(path: Path) -> None:
    title, *_ = lines = path.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert [sum(line.startswith(f"**{part}**") for line in lines) for part in ("Why.", "What else.")] == [1, 1]
    assert len(lines) <= 25, "short"


def test_the_strategy_that_the_map_shows_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", MAPS[0].read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, object] = {}
    exec(code, made)
    strategy = made["Median"]()  # type: ignore[operator]
    updates = [{"w": torch.tensor([float(n), -1.0]), "steps": torch.tensor(n)} for n in (3, 1, 200)]
    strategy.begin(updates[0])
    for update in updates:
        strategy.add(update, 10)
    mean = strategy.finish()
    assert mean["w"].tolist() == [3.0, -1.0]
    assert (mean["steps"].item(), mean["steps"].dtype) == (3, torch.int64)
