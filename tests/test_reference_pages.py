"""The committed pages are those that the command writes, and what has no meaning is an error."""

from collections.abc import Sequence
from typing import get_args

import click
import pytest
from prometheus_client.core import GaugeMetricFamily

from flclient.cli import flclient
from flserver.cli.main import cli
from flserver.events import words as w
from tests.reference_pages import ROOT, written
from tests.reference_pages.commands import commands_page
from tests.reference_pages.markdown import Undescribed, anchors, links, prose
from tests.reference_pages.metrics import families, metrics_page
from tests.reference_pages.picture import dark
from tests.reference_pages.views import views_page, views_there

REFERENCE = ROOT / "ops" / "reference"


def test_the_committed_files_are_what_the_command_writes() -> None:
    texts = written()
    stale = [path.name for path, text in texts.items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run ops/write-reference"
    assert {path for path in texts if path.suffix == ".md"} == {*REFERENCE.glob("*.md")} - {REFERENCE / "README.md"}


@pytest.mark.parametrize("change", ["another column", "a column that is gone", "another view", "a view that is gone"])
def test_a_view_or_column_and_its_meaning_go_together(change: str) -> None:
    there: dict[str, Sequence[str]] = dict(views_there())
    match change:
        case "another column":
            there["v1_rounds"] = [*there["v1_rounds"], "mood"]
        case "a column that is gone":
            there["v1_rounds"] = there["v1_rounds"][:-1]
        case "another view":
            there["v1_moods"] = ["mood"]
        case "a view that is gone":
            del there["v1_rounds"]
    with pytest.raises(Undescribed):
        views_page(there)


@pytest.mark.parametrize("parameter", [click.Argument(["mood"]), click.Option(["--mood"])])
def test_a_parameter_without_a_meaning_is_an_error(parameter: click.Parameter) -> None:
    with pytest.raises(Undescribed, match="mood"):
        commands_page(click.Command("flserver", params=[*cli.params, parameter], help="Serve."), flclient)


def test_a_help_text_has_its_options_as_code_once() -> None:
    told = prose("As `flserver replay --without` does, with --out <FILE>; `a < b`.")
    assert told == "As `flserver replay --without` does, with `--out` &lt;FILE>; `a < b`."


def test_what_a_command_takes_is_its_own_and_says_whether_it_has_to_be_there() -> None:
    @click.command("prove", help="Prove.")
    @click.argument("what")
    @click.option("--key", metavar="FILE", help="Its key. Required.")
    def prove() -> None:
        """Nothing."""

    text = commands_page(click.Group("flserver", commands=[*cli.commands.values(), prove], help="Serve."), flclient)
    _, _, section = text.partition("\n## flserver prove\n")
    assert "| `--key FILE` | required | Its key. |" in section
    assert "| `WHAT` |  | An event by its number," in section
    assert "| `RUN:ROUND\\|CLIENT` |  | A committed round as `RUN:ROUND`, or else a client's id. |" in text


def test_a_command_or_metric_without_a_help_text_is_an_error() -> None:
    with pytest.raises(Undescribed, match="mood"):
        commands_page(click.Group("flserver", commands=[*cli.commands.values(), click.Command("mood")], help="Serve."))
    with pytest.raises(Undescribed, match="mood"):
        metrics_page([*families(), GaugeMetricFamily("mood", "", value=1)])


@pytest.mark.parametrize(
    ("words", "section"),
    [
        (w.RunStatus, "v1_runs"),
        (w.OperatorAct, "v1_operator_events"),
        (w.IdentityKind, "v1_clients"),
        (w.LeftReason, "v1_clients"),
        (w.Purpose, "v1_connections"),
        (w.Transport, "v1_connections"),
        (w.Direction, "v1_messages"),
        (w.Encoding, "v1_messages"),
        (w.Outcome, "v1_messages"),
        (w.IdentityKind, "v1_updates"),
        (w.Decision, "decisions"),
        (w.RejectedKind, "decisions"),
        (w.RoundStatus, "v1_rounds"),
        (w.Participation, "v1_client_rounds"),
        (w.MetricSource, "v1_round_metrics"),
        (w.MeasuredOn, "v1_client_metrics"),
    ],
)
def test_the_views_page_has_every_word_of_a_closed_set(words: object, section: str) -> None:
    _, _, text = (REFERENCE / "views.md").read_text().lower().partition(f"\n## {section}\n")
    text = text.partition("\n## ")[0]
    assert len(get_args(words)) > 1
    assert [word for word in get_args(words) if f"`{word}`" not in text] == []


def test_the_dark_picture_differs_in_its_colours_alone() -> None:
    light = (ROOT / ".github" / "overview.svg").read_text().splitlines()
    after = (ROOT / ".github" / "overview-dark.svg").read_text().splitlines()
    differing = [one for one, other in zip(light, after, strict=True) if one != other]
    assert len(differing) == 7
    assert all(line.strip().startswith("--") for line in differing)
    with pytest.raises(KeyError, match="mood"):
        dark("--mood: #ffffff;")


def test_links_and_anchors_are_read_as_the_hosting_site_reads_them() -> None:
    text = (
        "# One\n## v1_runs, all of *them*\n### `--db`\n## One\n```\n# no heading [no](link)\n```\n"
        '[a](b.md#c) ![d](e.svg) `[no](link)` <img src="f.svg">\n'
    )
    assert anchors(text) == {"one", "v1_runs-all-of-them", "--db", "one-1"}
    assert links(text) == ["b.md#c", "e.svg", "f.svg"]
