"""The README says what there is: every option, view and metric."""

import re
from pathlib import Path

import pytest

from flclient.settings import CLIENT_SETTINGS
from flserver.settings import SERVER_SETTINGS, Setting
from tests.observers.names import COUNTERS, GAUGES, HISTOGRAMS

README = Path(__file__).resolve().parent.parent / "README.md"


def section(title: str) -> str:
    _, _, rest = README.read_text().partition(f"### {title}\n")
    return rest.partition("\n## ")[0].partition("\n### ")[0]


@pytest.mark.parametrize(("title", "settings"), [("flserver", SERVER_SETTINGS), ("flclient", CLIENT_SETTINGS)])
def test_every_option_has_its_row_with_its_help_and_default(title: str, settings: tuple[Setting, ...]) -> None:
    rows = [line for line in section(title).splitlines() if line.startswith("| `--")]
    documented = [match[1] for row in rows if (match := re.match(r"\| `--([a-z-]+)", row))]
    assert documented == [setting.name for setting in settings]
    for row, setting in zip(rows, settings, strict=True):
        assert setting.help in row
        if setting.kind not in ("bool", "tristate") and setting.default is not None:
            default = f"{setting.default:g}" if isinstance(setting.default, float) else setting.default
            assert f"`{default}`" in row


def test_every_metric_is_named() -> None:
    text = README.read_text()
    for name in (*GAUGES, *COUNTERS, *HISTOGRAMS):
        assert f"`{name}" in text, name


def test_the_map_has_every_room() -> None:
    house = README.parent / "flserver"
    text = (house / "README.md").read_text()
    rooms = [path.name for path in house.glob("*.py") if not path.name.startswith("__")]
    rooms += [f"{path.parent.name}/" for path in house.glob("*/__init__.py")]
    assert [room for room in rooms if f"`{room}`" not in text] == []


def test_every_fault_in_the_handbook_has_its_test() -> None:
    rows = [line for line in (README.parent / "ops" / "README.md").read_text().splitlines() if "`test_" in line]
    assert len(rows) > 30
    sources = "".join(path.read_text() for path in (README.parent / "tests").rglob("test_*.py"))
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    assert {name for name in named if f"def {name}(" not in sources} == set()
