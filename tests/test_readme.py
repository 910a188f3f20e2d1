"""The README, the handbook and the reference say what there is, and what they point at is there."""

import re
from pathlib import Path

import pytest

from flclient.settings import CLIENT_SETTINGS
from flserver.record.questions import questions
from flserver.settings import SERVER_SETTINGS, Setting
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests.reference_pages.markdown import anchors, links, prose
from tests.reference_pages.metrics import exposed_name, families
from tests.reference_pages.options import default_of

README = Path(__file__).resolve().parent.parent / "README.md"
HANDBOOK = README.parent / "ops" / "README.md"
MEASURING = README.parent / "ops" / "MEASURING.md"
REFERENCE = README.parent / "ops" / "reference"
GITHUB = README.parent / ".github"
PAGES = (README, HANDBOOK, MEASURING, *sorted(REFERENCE.glob("*.md")), *sorted(GITHUB.glob("*.md")))


def section(title: str) -> str:
    _, _, rest = (REFERENCE / "options.md").read_text().partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize(("title", "settings"), [("flserver", SERVER_SETTINGS), ("flclient", CLIENT_SETTINGS)])
def test_every_option_has_its_row_with_its_help_and_default(title: str, settings: tuple[Setting, ...]) -> None:
    rows = [line for line in section(title).splitlines() if line.startswith("| `--")]
    documented = [match[1] for row in rows if (match := re.match(r"\| `--([a-z-]+)", row))]
    assert documented == [setting.name for setting in settings]
    for row, setting in zip(rows, settings, strict=True):
        assert row.endswith(f"| {default_of(setting)} | {prose(setting.help)} |")


def test_every_metric_is_named() -> None:
    text = (REFERENCE / "metrics.md").read_text()
    names = [exposed_name(family) for family in families()]
    assert len(names) > 35
    assert [name for name in names if f"| `{name}` |" not in text] == []


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


@pytest.mark.parametrize("page", [HANDBOOK, MEASURING], ids=["ops/README.md", "ops/MEASURING.md"])
def test_a_long_page_begins_with_an_index_of_its_sections(page: Path) -> None:
    index, *sections = re.split(r"(?m)^## ", page.read_text())
    assert len(sections) > 3
    named = {link.removeprefix("#") for link in links(index)}
    assert [section for section in sections if not anchors(f"## {section.splitlines()[0]}") & named] == []


def test_every_alert_is_in_the_handbook_and_no_other() -> None:
    alerts = re.findall(r"- alert: (\w+)", (README.parent / "ops" / "prometheus" / "alerts.yml").read_text())
    _, _, table = HANDBOOK.read_text().partition("\n### Which alert, what then\n")
    rows = [line for line in table.partition("\n### ")[0].splitlines() if line.startswith("| `Flserver")]
    named = [name for row in rows for name in re.findall(r"`(Flserver\w+)`", row.split(" | ")[0])]
    assert len(alerts) > 10
    assert sorted(named) == sorted(alerts)


def test_every_question_that_a_page_or_an_alert_names_is_one() -> None:
    texts = [page.read_text() for page in (README, HANDBOOK, README.parent / "ops" / "prometheus" / "alerts.yml")]
    named = {name for text in texts for name in re.findall(r"\bask ([a-z]+(?:_[a-z]+)+)", text)}
    assert len(named) > 10
    assert named - set(questions()) == set()


def test_every_promise_names_what_holds_it() -> None:
    _, _, table = README.read_text().partition("\n## What is promised\n")
    rows = [line for line in table.partition("\n## ")[0].splitlines() if line.startswith("| **")]
    assert len(rows) == 9
    for row in rows:
        *_, held_by, _ = row.split("|")
        named = re.findall(r"`([^`]+)`", held_by)
        assert named, row
        assert [path for path in named if not (README.parent / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(README.parent)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue  # somebody else's page
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize(("page", "least"), [(README, 1), (HANDBOOK, 3)], ids=["README.md", "ops/README.md"])
def test_every_query_that_is_shown_can_be_asked(page: Path, least: int, tmp_path: Path) -> None:
    ensure_head(tmp_path / "runs.sqlite")
    queries = re.findall(r' query "(SELECT [^"]*)"', page.read_text())
    assert len(queries) >= least
    for sql in queries:
        Reader(tmp_path / "runs.sqlite").query(sql, {"run_id": "r1"} if ":run_id" in sql else {})


def test_before_a_commit_runs_what_the_test_command_runs() -> None:
    commands = (README.parent / "ops" / "test").read_text()
    checks = re.findall(r"^(\.venv/bin/(?:ruff|mypy).*?)(?: &)?$", commands, re.MULTILINE)
    config = (README.parent / ".pre-commit-config.yaml").read_text()
    assert len(checks) == 3
    assert re.findall(r"^ +entry: (.*)$", config, re.MULTILINE) == checks
