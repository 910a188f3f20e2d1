"""The pages of ``ops/reference/``, written from what they are about: the settings table, the commands, the views of a
database that was just made, the cookbook, and the metrics of a server that has just begun. ``ops/write-reference``
writes them; a test holds the committed ones to it.

What the code does not say of itself, what a view's column means and a command's argument, stands in ``meanings.py``.
Whatever has no meaning there is an error here, and so is a meaning of what is not there.
"""

from pathlib import Path

from tests.reference_pages.commands import commands_page
from tests.reference_pages.metrics import metrics_page
from tests.reference_pages.options import options_page
from tests.reference_pages.picture import dark
from tests.reference_pages.questions import questions_page
from tests.reference_pages.views import views_page

ROOT = Path(__file__).resolve().parent.parent.parent


def written() -> dict[Path, str]:
    """Every file that the command writes, with its text."""
    reference, pictures = ROOT / "ops" / "reference", ROOT / ".github"
    return {
        reference / "options.md": options_page(),
        reference / "commands.md": commands_page(),
        reference / "views.md": views_page(),
        reference / "questions.md": questions_page(),
        reference / "metrics.md": metrics_page(),
        pictures / "overview-dark.svg": dark((pictures / "overview.svg").read_text(encoding="utf-8")),
    }
