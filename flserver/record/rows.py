"""The answer to a question, as plain rows, as a table in a notebook, or for pandas."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from flserver.errors import NotInstalled
from flserver.text import printable

if TYPE_CHECKING:
    import pandas

SHOWN = 60  # rows that a notebook shows


class Rows(list[dict[str, Any]]):
    """A list with a dict for each row, its values by the names of the ``columns``: text, int, float, or None for NULL.
    Units are the views': seconds, bytes, and times as text, UTC."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        super().__init__(dict(zip(columns, row, strict=True)) for row in rows)
        self.columns = tuple(columns)

    def column(self, name: str) -> list[Any]:
        """The values of one column, in the rows' order. Raises KeyError where there is none of that name."""
        if name not in self.columns:
            raise KeyError(name)
        return [row[name] for row in self]

    def frame(self) -> "pandas.DataFrame":
        """The rows as a pandas.DataFrame, those columns as times (UTC) that are called ``at`` or end with ``_at``.

        Raises UsageError where there is no pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise NotInstalled("there is no pandas", "notebook") from error
        frame = pandas.DataFrame([*self], columns=[*self.columns])
        for name in self.columns:
            if name == "at" or name.endswith("_at"):
                frame[name] = pandas.to_datetime(frame[name], utc=True, format="ISO8601")
        return frame

    def __repr__(self) -> str:
        return f"<{len(self)} row{'s' * (len(self) != 1)}: {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{_text(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{_text(row[c])}</td>' for c in self.columns)}</tr>" for row in self[:SHOWN])
        more = f"<p>… {len(self) - SHOWN} more rows</p>" if len(self) > SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _text(value: object) -> str:
    """A cell. What a peer wrote is text, and nothing that a browser acts on."""
    return "" if value is None else escape(printable(str(value)))
